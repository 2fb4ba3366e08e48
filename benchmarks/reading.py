"""Measure how many views of a photo one CPU core reads, decodes and cuts in a second: the `--core-rate` of scale.py.

    python benchmarks/reading.py imagenet-std-mixer-s16 --output results/reading.json

The recipe's own reader, as each worker process has it, in this process, on photos as large as ImageNet's: 500 x 375
pixels and about 115 kB, cut from two photos and made noisy until their files are so large. Files lie in memory's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from provenance import provenance
from sklearn.datasets import load_sample_images

from mixstill import recipes
from mixstill.config import Config
from mixstill.data.cutting import Cutting
from mixstill.data.photos import Files
from mixstill.data.reading import TrainReader

WIDTH, HEIGHT, KB = 500, 375, 115
PHOTOS = 48


def main() -> None:
    """Measure with the recipe's repeated augmentation and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = recipes.load(options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder))
        size = statistics.fmean(path.stat().st_size for path in Path(folder).iterdir()) / 1000
        rows = {
            repeats: measure(photos, config, repeats, options.rounds)
            for repeats in sorted({1, config.views.aug_repeats})
        }
    print(f"files of {size:.0f} kB on average")
    for repeats, row in rows.items():
        print(f"{repeats} views of a photo: {row['median']:.0f} views/s ({row['min']:.0f} to {row['max']:.0f})")
    if options.output:
        result = provenance(torch.device("cpu"), options.output) | {"recipe": options.recipe, "kB": size, "rows": rows}
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def make_photos(folder: Path) -> Files:
    """Photos in files of about `KB` each."""
    draw, paths = np.random.default_rng(0), []
    for index in range(PHOTOS):
        photo = Image.fromarray(load_sample_images().images[index % 2])
        left, top = (int(draw.integers(0, most + 1)) for most in (photo.width - WIDTH, photo.height - HEIGHT))
        levels = np.asarray(photo.crop((left, top, left + WIDTH, top + HEIGHT)), dtype=np.float64)
        noise = draw.normal(size=levels.shape)
        paths.append(str(folder / f"{index}.jpg"))
        for strength in range(0, 64, 2):
            Image.fromarray(np.clip(levels + strength * noise, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
            if Path(paths[-1]).stat().st_size >= 1000 * KB:
                break
    return Files(paths, [0] * PHOTOS)


def measure(photos: Files, config: Config, repeats: int, rounds: int) -> dict[str, Any]:
    """Views per second of the core's own time, of passes over all photos, `repeats` views of each side by side."""
    side = config.data.input_size or 224
    cutting = Cutting(size=side, crop_pct=config.data.crop_pct, views=config.views, seed=0)
    reader = TrainReader(photos, np.arange(PHOTOS), cutting, classes=1, max_corrupt=0)
    ids = np.arange(PHOTOS).repeat(repeats).tolist()
    rates = []
    for epoch in range(rounds):
        began = time.process_time()
        reader[ids, list(range(repeats)) * PHOTOS, epoch]
        rates.append(len(ids) / (time.process_time() - began))
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "values": rates}


if __name__ == "__main__":
    main()
