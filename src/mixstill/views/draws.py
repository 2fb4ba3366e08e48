"""Random words as what views draw with them: a chance, an integer, a number of an interval, a normal number.

On the host and in float64, so that a plan is the same whatever device carries it out.

Shapes: ... any; a word is an int64 in [0, 2**32).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chance(words: Tensor, probability: float) -> Tensor:
    """True with the given probability, exactly never at 0 and always at 1: int64 [...] -> bool [...]."""
    return words < round(probability * 2**32)


def below(words: Tensor, places: Tensor) -> Tensor:
    """An integer in [0, places), all as likely: int64 [...] and int64 [...] of at most 2**31 -> int64 [...]."""
    return (words * places) >> 32


def unit(words: Tensor) -> Tensor:
    """A number of the open interval (0, 1): int64 [...] -> float64 [...]."""
    return (words.double() + 0.5) * 2.0**-32


def between(words: Tensor, low: float, high: float) -> Tensor:
    """A number of the interval (low, high): int64 [...] -> float64 [...]."""
    return low + (high - low) * unit(words)


def normal(first: Tensor, second: Tensor) -> Tensor:
    """A standard normal number from two words (Box and Muller, 1958): int64 [...] each -> float64 [...]."""
    return torch.sqrt(-2 * torch.log(unit(first))) * torch.cos(2 * math.pi * unit(second))
