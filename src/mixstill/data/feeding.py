"""What a worker makes of its share of an iterable data set: blocks of pixels, with what was found broken on the way.

timm's readers are told here which process of how many they read for, and in which epoch. They decode by themselves
and stumble over a broken image in ways of their own: the hub's streams are told to hand over the encoded bytes, and
webdataset's reader, which passes over a broken image, is overheard.

Shapes: S x S pixels.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.readers.shared_count import SharedCount
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mixstill.data.cutting import Cutting
from mixstill.data.images import FORMATS, reason
from mixstill.data.opening import secure_webdataset
from mixstill.data.reading import Block, Loaded
from mixstill.errors import one_line
from mixstill.paths import read_regular
from mixstill.quiet import no_warnings

_ENDLESS = 2**31  # training samples a worker reads at most: as many as are asked for, the set over again if need be
_EPOCHS = ("epoch", "epoch_count")  # what timm's readers call their shared epoch number


def detached(reader: Any) -> Any:
    """A reader of timm's without its shared counter, so that it can be sent to a worker."""
    alone = copy(reader)
    for name in _EPOCHS:
        if hasattr(alone, name):
            setattr(alone, name, None)
    return alone


@dataclass(frozen=True, eq=False)
class FeedReader(IterableDataset[Loaded]):
    """Blocks of `size` samples of this worker's share of an epoch, each in an order of timm's `reader`.

    Of the `world` processes this is number `rank`. Training goes on for ever, in whole blocks; evaluation ends with a
    short one.
    """

    reader: Any
    cutting: Cutting
    classes: int
    epoch: int
    size: int
    rank: int
    world: int
    training: bool
    max_corrupt: int

    def __iter__(self) -> Iterator[Loaded]:
        try:
            with no_warnings():  # Pillow's, of odd but readable files
                yield from self._blocks()
        except Exception as error:  # the readers raise almost anything
            yield Block(0, self.cutting.size, self.classes).loaded({})._replace(failure=one_line(error, 500))

    def _blocks(self) -> Iterator[Loaded]:
        number = 0
        block, words = self._next(number)
        broken: dict[str, str] = {}
        overheard = _Overheard(broken)
        for image, label in self._samples(overheard):
            name = partial(_name, image, overheard)
            try:
                photo = _opened(image)
                block.add(self._cut(photo, words[len(block), None]), int(label), name)
            except Exception as error:  # a broken file makes Pillow raise almost anything
                broken[name()] = reason(error)
            if len(block) == self.size or len(broken) > self.max_corrupt:
                yield block.loaded(broken)
                number += 1
                block, words = self._next(number)
                broken.clear()
        yield block.loaded(broken)

    def _next(self, number: int) -> tuple[Block, Tensor]:
        """Room for block `number`, and what its crops draw: int64 [size, D]. No two workers draw the same."""
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        places = number * self.size + torch.arange(self.size)
        ids = (places * self.world * workers + self.rank * workers + index) % 2**32
        room = Block(self.size, self.cutting.size, self.classes)
        return room, self.cutting.words(ids, torch.zeros_like(ids), self.epoch)

    def _cut(self, photo: Image.Image, words: Tensor) -> npt.NDArray[np.uint8]:
        if not self.training:
            return self.cutting.eval(photo)
        (window,) = self.cutting.windows(words, [photo.size])
        return self.cutting.train(photo, window)

    def _samples(self, overheard: _Overheard) -> Iterator[tuple[Any, Any]]:
        """Image and label of each sample of this worker; what the reader passes over is `overheard`."""
        reader = copy(self.reader)
        if hasattr(reader, "split_info"):
            secure_webdataset()  # this may be a worker, which knows nothing of it yet
        for name in _EPOCHS:
            if hasattr(reader, name):
                setattr(reader, name, SharedCount(self.epoch))
        reader.is_training = self.training
        reader.dist_rank, reader.dist_num_replicas = self.rank, self.world
        if self.training:
            reader.num_samples = _ENDLESS
        reader._lazy_init()
        if not self.training:
            reader.dist_num_replicas = 1  # the shards are dealt out: no padding to equal numbers
        if hasattr(reader.ds, "cast_column"):
            reader.ds = reader.ds.cast_column(reader.input_key, _encoded())
            reader.input_img_mode = ""
        if hasattr(reader.ds, "pipeline"):
            return overheard.listen(reader)
        return iter(reader)


def _encoded() -> Any:
    from timm.data.readers.reader_hfids import datasets

    return datasets.Image(decode=False)


def _opened(image: Any) -> Image.Image:
    """An image as a reader gives it: of Pillow, or the hub's dict of encoded bytes or the path to them."""
    if isinstance(image, dict):
        return Image.open(io.BytesIO(image["bytes"] or read_regular(image["path"])), formats=FORMATS)
    return cast(Image.Image, image)


def _name(image: Any, overheard: _Overheard) -> str:
    """What to call an image, the same in each epoch: its shard and key, its path, or a digest of its bytes."""
    if not isinstance(image, dict):
        return overheard.sample or "an image"
    return image["path"] or f"the image of SHA-1 {hashlib.sha1(image['bytes'] or b'').hexdigest()[:12]}"


class _Overheard(logging.Handler):
    """Takes down what webdataset's reader logs of a sample that it leaves out, and which one it was."""

    def __init__(self, broken: dict[str, str]) -> None:
        super().__init__()
        self._broken = broken
        self.sample: str | None = None
        self._shard = ""

    def watch_shards(self, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The shards as they are, before they are opened; they are read one after another."""
        for shard in shards:
            self._shard = shard["url"]
            yield shard

    def watch(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The samples as they are, before they are decoded."""
        for sample in samples:
            self.sample = f"{sample['__url__']}: {sample['__key__']}"
            yield sample
            self.sample = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note the sample that is being decoded, or else the shard that is being read."""
        error = sys.exception()
        if not isinstance(error, Exception):
            error = RuntimeError(record.getMessage())
        if self.sample:
            self._broken[self.sample] = reason(error)
        else:
            why = getattr(error, "strerror", None) or str(next(iter(error.args), type(error).__name__))
            words = why.partition(" @ <")[0]  # webdataset appends the file
            self._broken.setdefault(f"shard {self._shard}", one_line(RuntimeError(words)))

    def listen(self, reader: Any) -> Iterator[tuple[Any, Any]]:
        """What a reader of webdataset's gives, while this hears what it logs."""
        log = logging.getLogger(type(reader).__module__)
        stages = reader.ds.pipeline
        stages.insert(stages.index(reader._split_by_node_and_worker) + 1, self.watch_shards)
        stages.insert(-2, self.watch)  # the last two stages decode and rename
        log.addHandler(self)
        try:
            yield from reader
        finally:
            log.removeHandler(self)
