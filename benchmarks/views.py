"""Measure the batched views beside timm's transforms on Pillow images in a DataLoader with two workers.

    python benchmarks/views.py --output results/views.json
    python benchmarks/views.py --size 32 --data-dir DIR --output results/views.json

Both sides start from decoded images in memory and end with a normalised float32 batch, of the same policy: DeiT's
(rand-m9-mstd0.5-inc1, erasing 0.25), after a padded crop at 32 pixels or less, or a random resized crop. They take
turns in one process, a pass over all images each; ours computes in the main process, with two threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from provenance import provenance
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomCrop

from mixstill import rng
from mixstill.config import DataConfig, ViewsConfig
from mixstill.data.cifar import load_cifar
from mixstill.views import erase, normalise, to_float, train_views

AA, REPROB, PAD = "rand-m9-mstd0.5-inc1", 0.25, 4
MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
WORKERS = THREADS = 2
MARGIN = 8 / 7  # photos lie in memory this much larger than a resized crop of them, as those for 224 do at 256


def main() -> None:
    """Measure at every size and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[32, 224], help="pixels per side of a view")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[512, 128], help="of each size")
    parser.add_argument("--images", type=int, nargs="+", default=[10240, 768], help="of each size")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--data-dir", type=Path, help="CIFAR-100 for 32 pixels; default: pieces of two photos")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not len(options.size) == len(options.batch_size) == len(options.images):
        parser.error("--size, --batch-size and --images take as many numbers")
    torch.set_num_threads(THREADS)
    torch.empty(2**23 - 2**16)  # once freed, glibc keeps what batches claim and free, as in any training process
    rows = {}
    for size, batch_size, count in zip(options.size, options.batch_size, options.images, strict=True):
        pixels = load(size, count, options.data_dir if size == 32 else None)
        rows[str(size)] = row = measure(pixels, size, batch_size, options.rounds)
        print(
            f"{size} px: ours {row['ours']['median']:.0f} images/s, timm {row['timm']['median']:.0f} images/s, "
            f"{row['ratio']['median']:.2f} times as fast"
        )
    if options.output:
        result = provenance(torch.device("cpu"), options.data_dir) | {
            "workers": WORKERS,
            "policy": {"aa": AA, "reprob": REPROB, "hflip": 0.5},
            "rows": rows,
        }
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def load(size: int, count: int, data_dir: Path | None) -> Tensor:
    """uint8 [count, 3, side, side]: CIFAR-100's, or pieces of scikit-learn's two photos."""
    if data_dir is not None:
        return load_cifar(DataConfig(dataset="cifar100"), data_dir, "train").pixels[:count]
    side = size if size <= 32 else round(size * MARGIN)
    photos = torch.stack([torch.from_numpy(photo.copy()).permute(2, 0, 1) for photo in load_sample_images().images])
    words = rng.bits(0, rng.Domain.SUBSET, 0, torch.arange(count), 2)
    places = (rng.integers(words[:, axis], photos.shape[2 + axis] - side + 1).tolist() for axis in (0, 1))
    pieces = zip(range(count), *places, strict=True)
    return torch.stack([photos[i % 2, :, top : top + side, left : left + side] for i, top, left in pieces])


def measure(pixels: Tensor, size: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Images per second of both sides, who take turns."""
    sides = {"ours": ours(pixels, size, batch_size), "timm": theirs(pixels, size, batch_size)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            count = run(turn)
            rate = count / (time.perf_counter() - start)
            if turn:  # the first warms up: workers start, memory is claimed
                rates[name].append(rate)
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["timm"], strict=True)]
    return {
        "images": len(pixels),
        "pixels": pixels.shape[-1],
        "batch_size": batch_size,
        "unit": "images/s",
        **{name: summary(values) for name, values in rates.items()},
        "ratio": summary(ratios),
    }


def summary(values: list[float]) -> dict[str, Any]:
    """Median, least and largest of the rounds, and all of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def ours(pixels: Tensor, size: int, batch_size: int) -> Callable[[int], int]:
    """A pass over all images in the order of an epoch."""
    config = ViewsConfig(crop="pad" if size <= 32 else "rrc", pad=PAD, aa=AA, reprob=REPROB)

    def run(epoch: int) -> int:
        order = rng.permutation(0, rng.Domain.ORDER, epoch, len(pixels))
        for ids in order.split(batch_size):
            repeats = torch.zeros_like(ids)
            views = train_views(pixels[ids], ids, repeats, config, 0, epoch, size=size, mean=MEAN)
            erase(normalise(to_float(views), MEAN, STD), ids, repeats, config, 0, epoch)
        return len(pixels)

    return run


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, but for 0 bits: at a magnitude of 10 it asks for them, and newer versions of Pillow refuse."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


class Photos(Dataset[Tensor]):
    """The images as Pillow's, through timm's transform."""

    def __init__(self, pixels: Tensor, size: int) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
        self.transform = create_transform(
            size,
            is_training=True,
            color_jitter=None,
            auto_augment=AA,
            interpolation="bicubic",
            re_prob=REPROB,
            re_mode="pixel",
            mean=MEAN,
            std=STD,
        )
        if size <= 32:
            self.transform.transforms[0] = RandomCrop(size, padding=PAD)  # as DeiT does for small images

        for op in next(step for step in self.transform.transforms if isinstance(step, RandAugment)).ops:
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        view: Tensor = self.transform(self.images[index])
        return view


def theirs(pixels: Tensor, size: int, batch_size: int) -> Callable[[int], int]:
    """A pass over all images in a shuffled order."""
    data = Photos(pixels, size)
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def run(_: int) -> int:
        return sum(len(views) for views in loader)

    return run


if __name__ == "__main__":
    main()
