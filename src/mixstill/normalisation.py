"""Mean and deviation per channel, in [0, 1], of the data sets that both data and weights must know."""

from __future__ import annotations

from typing import TypeAlias

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

Channels: TypeAlias = tuple[float, float, float]
Normalisation: TypeAlias = tuple[Channels, Channels]

CIFAR10: Normalisation = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100: Normalisation = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
IMAGENET: Normalisation = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
