"""Images to compare operations with Pillow's on: real photos, and what no photo has."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def images() -> Callable[[int, int], list[Image.Image]]:
    """Crops of the two photos at three scales, noise of three kinds (all levels, two neighbours, 0 and 255), a colour.

    The function that it is takes their height and width.
    """
    photos = load_sample_images().images

    def make(height: int, width: int) -> list[Image.Image]:
        rng, shape = np.random.default_rng(0), (height, width, 3)
        crops = [photos[k % 2][7 * k :: 1 + k % 3, 40 * k :: 1 + k % 3][:height, :width] for k in range(6)]
        noise = [rng.integers(low, high, shape, dtype=np.uint8) for low, high in [(0, 256), (100, 102)]]
        binary = rng.integers(0, 2, shape, dtype=np.uint8) * 255
        flat = np.full(shape, (3, 200, 255), np.uint8)
        return [Image.fromarray(np.ascontiguousarray(array)) for array in [*crops, *noise, binary, flat]]

    return make


@pytest.fixture(scope="session")
def batch() -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """Pillow's images of one size -> uint8 [B, 3, H, W]."""

    def make(pictures: Sequence[Image.Image]) -> torch.Tensor:
        arrays = np.stack([np.asarray(picture) for picture in pictures])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()

    return make
