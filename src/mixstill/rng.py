"""Counter-based randomness: every draw is a function of (seed, domain, epoch, id, draw number), never of hidden state.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) evaluated in int64 tensor
arithmetic, so that CPU and CUDA give the same bits. One Philox block yields four 32-bit words; draw d of an id is word
d % 4 of block d // 4. A 32-bit word is kept in an int64; products wrap modulo 2**64, which keeps all 64 bits.

Shapes: B ids, D draws.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from threading import RLock

import numpy as np
import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LENT = RLock()  # of one process there is one set of global generators


class Domain(IntEnum):
    """What a draw is for: two domains never share a counter, so adding draws to one leaves the other as it was."""

    ORDER = 0
    VIEW = 1
    MIX = 2
    MARGINAL = 3
    MODEL = 4
    SPLIT = 5
    SUBSET = 6
    REGULARISER = 7
    RANDAUGMENT = 8
    THREE_AUGMENT = 9
    COLOR_JITTER = 10
    ERASE = 11
    NOISE = 12
    DROP_PATH = 13


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 of each counter: int64 [..., 4] of 32-bit words -> int64 [..., 4] of 32-bit words."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_WORD)
        c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_WORD)
        c1, c3 = p1, p0  # their upper halves fall to the next round's mask
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack([c0, c1 & _WORD, c2, c3 & _WORD], dim=-1)


def bits(seed: int, domain: Domain, epoch: int, ids: Tensor, draws: int, repeats: Tensor | int = 0) -> Tensor:
    """`draws` random 32-bit words for each id: int64 [B] -> int64 [B, D] in [0, 2**32), on the device of `ids`.

    `seed` is any integer in [0, 2**64); `epoch` and the ids lie in [0, 2**32). Where an id comes several times in an
    epoch, `repeats` (int64 [B] in [0, 2**24)) tells which time it is.
    """
    blocks = -(-draws // 4)
    counter = torch.empty((*ids.shape, blocks, 4), dtype=torch.int64, device=ids.device)
    counter[..., 0] = ids.unsqueeze(-1)
    counter[..., 1] = epoch
    counter[..., 2] = torch.arange(blocks, device=ids.device)
    counter[..., 3] = int(domain) + (torch.as_tensor(repeats, device=ids.device).unsqueeze(-1) << 8)
    words = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return words.flatten(-2)[..., :draws]


def uniform(seed: int, domain: Domain, epoch: int, ids: Tensor, draws: int, repeats: Tensor | int = 0) -> Tensor:
    """Uniform draws in [0, 1) with 24 bits, exact in float32: int64 [B] -> float32 [B, D]."""
    return (bits(seed, domain, epoch, ids, draws, repeats) >> 8).to(torch.float32) * 2.0**-24


def integers(words: Tensor, high: int) -> Tensor:
    """32-bit words -> integers in [0, high), each with probability 1/high to within 2**-32. `high` <= 2**31."""
    return (words * high) >> 32


def scalars(seed: int, domain: Domain, epoch: int, step: int, draws: int) -> list[float]:
    """Uniform draws in the open interval (0, 1) with 32 bits, as Python floats: for what a whole batch shares."""
    words = bits(seed, domain, epoch, torch.tensor([step]), draws)[0]
    return [(word + 0.5) * 2.0**-32 for word in words.tolist()]


def permutation(seed: int, domain: Domain, epoch: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """A permutation of range(n), int64 [n]: the order of a stable sort by one 62-bit random key per index."""
    words = bits(seed, domain, epoch, torch.arange(n, device=device), 2)
    return torch.sort((words[:, 0] << 30) | (words[:, 1] >> 2), stable=True).indices


def model_seed(seed: int, epoch: int, step: int) -> int:
    """What `borrowed` generators are to be seeded by in one pass of a model: 63 bits that hold no history."""
    high, low = bits(seed, Domain.MODEL, epoch, torch.tensor([step]), 2)[0].tolist()
    return int((high << 31 | low >> 1) & 0x7FFFFFFFFFFFFFFF)


def _of_cuda() -> Iterable[torch.Generator]:
    """Those of all GPUs, once there are any: CUDA is not begun for their sake."""
    return torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]


@contextmanager
def borrowed(seed: int | None = None) -> Iterator[None]:
    """The global generators of torch, numpy and Python, seeded by `seed` in [0, 2**63) where one is given.

    Layers (dropout) and initialisers of other libraries draw from them. One thread at a time has them, and they are put
    back as they were. Also a decorator.
    """
    with _LENT:
        ours = [torch.default_generator, *_of_cuda()]
        before = [generator.get_state() for generator in ours], np.random.get_state(), random.getstate()
        try:
            if seed is not None:
                for generator in ours:
                    generator.manual_seed(seed)
                np.random.seed(seed & _WORD)
                random.seed(seed)
            yield
        finally:
            for generator, state in zip(ours, before[0], strict=True):
                generator.set_state(state)
            np.random.set_state(before[1])
            random.setstate(before[2])
