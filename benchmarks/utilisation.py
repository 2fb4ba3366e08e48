"""Measure how much of the device's matrix rate a student's training step uses, and which kernels take the rest.

    python benchmarks/utilisation.py mixer_s4_32 mixer_s16_224 --batch-size 1024 --amp --output results/utilisation.json

Model-FLOP utilisation: three times the forward's operations of the plain student, times images/s, over the rate of a
large matrix product measured in the same run. The roofline of a step is what its matrix products take at that rate.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from provenance import provenance
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import mixstill  # noqa: F401  (registers the students)
from mixstill.config import OptimConfig
from mixstill.distill.sizes import size_of
from mixstill.train.device import pick_device
from mixstill.train.optim import build_optimizer

_KERNELS = 25  # that are listed
_MATRIX = ("gemm", "mm", "cutlass", "cublas", "nvjet", "conv")  # in the names of kernels of matrix products


def main() -> None:
    """Measure each student and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", type=int, default=8192, help="of the square matrices whose product is timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast, and bfloat16 matrices")
    parser.add_argument("--mode", default="default", help="of torch.compile: default, reduce-overhead, max-autotune")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    rate = matrix_rate(options.side, device, torch.bfloat16 if options.amp else torch.float32)
    print(f"matrix product: {rate / 1e12:.2f} TFLOP/s", flush=True)
    rows = {}
    for name in options.students:
        rows[name] = row = measure(name, options, device, rate)
        print(f"{name}: {row['images_per_second']:.0f} images/s, {row['utilisation']:.1%}", flush=True)
        if options.output:
            result = provenance(device, options.output) | {"teraflops": rate / 1e12, "rows": rows}
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def timed(run: Callable[[], Any], count: int, device: torch.device) -> float:
    """The median of seconds that `run` takes, after three that are not measured."""
    taken = []
    for _ in range(count + 3):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return median(taken[3:])


def matrix_rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of square matrices."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / timed(lambda: one @ other, 10, device)


def measure(name: str, options: argparse.Namespace, device: torch.device, rate: float) -> dict[str, Any]:
    """Images per second of forward, backward and optimizer on one batch, their utilisation, and the kernels."""
    torch.compiler.reset()
    size = size_of(name)
    student = timm.create_model(name).to(device).train()
    optimizer = build_optimizer(OptimConfig(), student)
    images = torch.randn(options.batch_size, 3, size.input_size, size.input_size, device=device)
    labels = torch.randint(0, size.num_classes, (options.batch_size,), device=device)
    forward = torch.compile(student, dynamic=False, mode=options.mode)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.amp):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = timed(step, options.steps, device)
    operations = 3 * 2 * size.macs * options.batch_size
    return {
        "batch_size": options.batch_size,
        "seconds_per_step": seconds,
        "images_per_second": options.batch_size / seconds,
        "utilisation": operations / seconds / rate,
        "roofline_seconds": operations / rate,
        "kernels": kernels(step, device),
    }


def kernels(step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """The kernels of a step by their share of its time, and the share of those that are matrix products."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as recorded:
        step()
    spent: dict[str, float] = {}
    for event in recorded.key_averages():
        if device.type == "cuda" and event.device_type == DeviceType.CUDA:
            spent[event.key] = event.self_device_time_total
        elif device.type == "cpu":
            spent[event.key] = event.self_cpu_time_total
    whole = sum(spent.values()) or 1.0
    shares = {key: value / whole for key, value in sorted(spent.items(), key=lambda pair: -pair[1])}
    matrix = sum(share for key, share in shares.items() if any(word in key.lower() for word in _MATRIX))
    return {"matrix_products": matrix, "shares": dict(list(shares.items())[:_KERNELS])}


if __name__ == "__main__":
    main()
