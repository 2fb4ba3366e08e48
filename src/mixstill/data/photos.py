"""Encoded images that can be had by number, with their labels: what timm's map-style data sets come down to."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mixstill.data.images import FORMATS
from mixstill.paths import open_regular, read_regular


class Photos(Protocol):
    """The samples of one part of a data set, 0 to len - 1."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N] on the CPU, where they can be listed without reading the images."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> tuple[Image.Image, int]:
        """The image, of which perhaps only the head was read, and its label. Raises whatever a broken one makes."""

    def name(self, index: int) -> str:
        """What to call the sample when telling of it: no two have the same."""


class Files:
    """Image files on disk. Their paths lie in one block of bytes, which is quick to hand to a worker."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._labels = np.array(labels, dtype=np.int64)

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return torch.tensor(self._labels)  # a copy: torch moves a tensor's memory when it sends it to a worker

    def __len__(self) -> int:
        return len(self._labels)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """See `Photos`."""
        return Image.open(io.BytesIO(read_regular(self.name(index))), formats=FORMATS), int(self._labels[index])

    def name(self, index: int) -> str:
        """The path."""
        start, end = self._ends[index : index + 2]
        return self._paths[start:end].decode("utf-8", "surrogateescape")


class Members:
    """Image files in a tar file, as timm's reader lists them: each a stretch of its bytes."""

    def __init__(self, path: str, samples: Iterable[Any], labels: npt.NDArray[np.int64]) -> None:
        self._path = path
        self._stretches = []
        for member, _, inner in samples:
            before = 0 if inner is None else inner.offset_data  # of a tar file in the tar file
            start = before + member.offset_data
            self._stretches.append((member.name, start, member.size))
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return torch.tensor(self._labels)

    def __len__(self) -> int:
        return len(self._stretches)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """See `Photos`."""
        _, start, size = self._stretches[index]
        with open_regular(self._path) as file:
            file.seek(start)
            return Image.open(io.BytesIO(file.read(size)), formats=FORMATS), int(self._labels[index])

    def name(self, index: int) -> str:
        """The paths of the tar file and in it."""
        return f"{self._path}/{self._stretches[index][0].removeprefix('./')}"


class Encoded:
    """What one of timm's readers gives: the rows of a data set of the hub."""

    def __init__(self, reader: Any, labels: Tensor | None, kind: str) -> None:
        self.reader, self._kind = reader, kind
        self._labels = None if labels is None else labels.numpy()

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], where they are known."""
        return None if self._labels is None else torch.tensor(self._labels)

    def __len__(self) -> int:
        return len(self.reader)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """See `Photos`."""
        file, label = self.reader[index]
        with file:
            content = file.read()
        known = label if self._labels is None else self._labels[index]
        return Image.open(io.BytesIO(content), formats=FORMATS), int(known)

    def name(self, index: int) -> str:
        """The kind and the number, and the file name where the reader knows one."""
        try:
            file = self.reader.filename(index)
        except Exception:  # of a sample that cannot even be looked up
            file = None
        return f"{self._kind} {index}" + (f" ({file})" if file else "")


class Decoded:
    """A data set of torchvision that gives images of Pillow."""

    def __init__(self, dataset: Any, labels: Tensor | None, kind: str) -> None:
        self.dataset, self.labels, self._kind = dataset, labels, kind

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """See `Photos`."""
        image, label = self.dataset[index]
        return image, int(label)

    def name(self, index: int) -> str:
        """The kind and the number."""
        return f"{self._kind} {index}"
