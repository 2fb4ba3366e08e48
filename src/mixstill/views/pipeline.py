"""What a training sample looks like: batched on the device, each draw a function of (seed, epoch, sample id, repeat).

The order is timm's: crop, flips, RandAugment or three-augment, colour jitter; erasing follows once normalised.

Shapes: B batch, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor

from mixstill.config import ViewsConfig
from mixstill.views import crops, jitter, randaugment

THREE_AUGMENT = "3a"


def check(config: ViewsConfig) -> None:
    """Raise `UserError` where `views.aa` is not a policy."""
    if config.aa is not None and config.aa != THREE_AUGMENT:
        randaugment.parse(config.aa)


def train_views(
    pixels: Tensor,
    ids: Tensor,
    repeats: Tensor,
    config: ViewsConfig,
    seed: int,
    epoch: int,
    *,
    size: int,
    mean: tuple[float, ...],
    cropped: bool = False,
) -> Tensor:
    """The views of a batch, in Pillow's 8 bits: uint8 [B, 3, H, W] on any device -> uint8 [B, 3, h, w].

    ids, repeats int64 [B] on the CPU: which samples these are, and which of their `aug_repeats` views. h = w = `size`
    for rrc and src; pad keeps H x W. Geometric operations fill in `mean`, in [0, 1]. `cropped`: the crop was made
    before, by who read the image.
    """
    words = crops.crop_words(ids, repeats, config, seed, epoch, cropped=cropped)
    views = pixels if cropped else crops.crop(pixels, words, config, size)
    views = crops.flip(views, words, config.hflip, config.vflip)
    if config.aa == THREE_AUGMENT:
        views = jitter.three_augment(views, jitter.draw_three(ids, repeats, seed, epoch))
    elif config.aa is not None:
        policy = randaugment.parse(config.aa)
        plan = randaugment.draw(policy, ids, repeats, seed, epoch, config.interpolation)
        views = randaugment.apply(views, plan, _fill(mean))
    if config.color_jitter and (config.aa is None or THREE_AUGMENT in config.aa):
        views = jitter.color_jitter(views, jitter.draw_jitter(config.color_jitter, ids, repeats, seed, epoch))
    return views


def _fill(mean: tuple[float, ...]) -> tuple[int, int, int]:
    """The mean as a colour in [0, 255], rounded as timm does."""
    red, green, blue = (min(255, round(255 * value)) for value in mean)
    return red, green, blue
