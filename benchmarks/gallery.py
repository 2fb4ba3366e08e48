"""Draw 64 views of one photo with DeiT's recipe, eight by eight, as a PNG.

    python benchmarks/gallery.py docs/views.png

The photo is scikit-learn's `china.jpg`; each tile is one repeat of the same sample in the same epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mixstill.config import ViewsConfig
from mixstill.views import denormalise, erase, normalise, to_float, train_views

DEIT = ViewsConfig(crop="rrc", aa="rand-m9-mstd0.5-inc1", reprob=0.25)
SIDE, GAP = 8, 2


def main() -> None:
    """Draw the views and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", type=int, default=72, help="pixels per side of a view")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    Image.fromarray(grid(views(photo, options.size, options.seed)).numpy()).save(options.file, optimize=True)


def views(photo: Tensor, size: int, seed: int) -> Tensor:
    """uint8 [3, H, W] -> uint8 [64, 3, size, size]: crop, flip and RandAugment in 8 bits, then erasing."""
    count = SIDE**2
    ids, repeats = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    pixels = photo.expand(count, -1, -1, -1)
    drawn = train_views(pixels, ids, repeats, DEIT, seed, 0, size=size, mean=mean)
    images = erase(normalise(to_float(drawn), mean, std), ids, repeats, DEIT, seed, 0)
    return denormalise(images, mean, std).mul(255).round().clamp(0, 255).to(torch.uint8)


def grid(tiles: Tensor) -> Tensor:
    """uint8 [64, 3, size, size] -> uint8 [h, w, 3], white between the tiles."""
    framed = torch.nn.functional.pad(tiles, (0, GAP, 0, GAP), value=255)
    rows = framed.unflatten(0, (SIDE, SIDE)).permute(0, 3, 1, 4, 2)  # row, y, column, x, channel
    return rows.flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP].contiguous()


if __name__ == "__main__":
    main()
