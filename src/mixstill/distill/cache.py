"""One teacher's answers on disk: a folder with what they depend on, and a file per epoch with a record per step.

A record is four bytes of checksum, then the answers to the batch, in its order. It has a fixed place and is written at
once; so a step is there if and only if its checksum fits, whoever was killed, or writes at the same time.
Shapes: B batch, K classes, W bytes of an answer (`mixstill.distill.form`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mixstill.distill.form import Form
from mixstill.errors import RunError, UserError, one_line
from mixstill.files import write_json

VERSION = 1  # of the layout
_CHECKSUM = 4  # bytes
_OTHERWISE = {
    "format": "in another format",
    "teacher": "when it was another",
    "student": "to images of another form",
    "data": "to other samples",
    "views": "to other views",
    "train": "to other batches",
    "distill": "in another form",
}

Bytes = npt.NDArray[np.uint8]


def record_bytes(rows: int, classes: int, top_k: int | None = None) -> int:
    """Bytes of one teacher's record of one step: of the answers to `rows` samples, with their checksum."""
    return _CHECKSUM + rows * Form(classes, top_k).width


def weights_digest(model: nn.Module) -> str:
    """The names, types, shapes and values of all weights, in 16 hexadecimal digits; where they lie does not count."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Cache:
    """The answers of the teacher `name`, in a folder of that name below `root`; it is made with the first record.

    Args:
        root: the folder of the answers of all teachers.
        name: the teacher's name.
        key: what its answers depend on, as nested plain values.
        rows: B.
        steps: in an epoch.
        form: of an answer.

    Raises:
        UserError: the folder holds answers that depend on something else, or can hold none.
    """

    root: Path
    name: str
    key: Mapping[str, Any]
    rows: int
    steps: int
    form: Form

    def __post_init__(self) -> None:
        if self._about.exists():
            self._compare()
        elif not self.writable:
            raise UserError(f"distill.cache: {str(self.root)!r} cannot be written to, and holds nothing of {self.name}")

    @property
    def folder(self) -> Path:
        """Where its answers lie."""
        return self.root / quote(self.name, safe=" ")

    @property
    def writable(self) -> bool:
        """Whether records can be put there, as far as can be told before."""
        there = self.folder
        while not there.exists():
            there = there.parent
        return there.is_dir() and os.access(there, os.W_OK)

    @property
    def record(self) -> int:
        """Bytes of a step."""
        return record_bytes(self.rows, self.form.classes, self.form.top_k)

    def load(self, epoch: int, index: int) -> Bytes | None:
        """The answers to a batch, uint8 [B,W]; None where they are not there, or damaged."""
        records = self._records(epoch)
        if records is None:
            return None
        record = np.array(records[index])  # before it is looked at: another process may write it at this moment
        answers = record[_CHECKSUM:].reshape(self.rows, self.form.width)
        return answers if record[:_CHECKSUM].tobytes() == self._checksum(answers, epoch, index) else None

    def store(self, epoch: int, index: int, answers: Bytes) -> None:
        """Put the answers to a batch there, uint8 [B,W].

        Raises:
            RunError: an answer that is not finite.
            UserError: the folder holds, by now, answers that depend on something else.
            OSError: the disk is full, or cannot be written to.
        """
        if not self.form.finite(torch.from_numpy(answers)):
            raise RunError(f"{self.name}: its answers to step {epoch * self.steps + index + 1} are not all finite")
        if not self._about.exists():
            self._claim()
        path = self._file(epoch)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(file).st_size != self.steps * self.record:
                os.ftruncate(file, self.steps * self.record)
            record = self._checksum(answers, epoch, index) + answers.tobytes()
            if os.pwrite(file, record, index * self.record) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(file)

    def there(self, epoch: int) -> npt.NDArray[np.bool_]:
        """Which steps of an epoch have a record, bool [steps]; whether it is whole is only seen when it is loaded."""
        records = self._records(epoch)
        marks = np.zeros((self.steps, 1)) if records is None else records[:, :_CHECKSUM]
        return np.asarray(marks.any(axis=1))

    def _records(self, epoch: int) -> Bytes | None:
        """The file of an epoch, uint8 [steps, bytes of a record]; None where there is none of the right size."""
        path, size = self._file(epoch), self.steps * self.record
        if not path.exists() or path.stat().st_size != size:
            return None
        return np.memmap(path, dtype=np.uint8, mode="r", shape=(self.steps, self.record))

    def _checksum(self, answers: Bytes, epoch: int, index: int) -> bytes:
        """Of these answers as those to this step; four zeros are no checksum but a record that is not there."""
        place = (epoch * self.steps + index) & 0xFFFFFFFF
        return (zlib.crc32(answers.data, place) or 1).to_bytes(_CHECKSUM, "little")

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch + 1:04d}.bin"

    @property
    def _about(self) -> Path:
        return self.folder / "cache.json"

    def _claim(self) -> None:
        """Make the folder that of these answers, unless another process makes it that of its own at this moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{uuid4().hex}.json"
        write_json(draft, self.key)
        try:
            os.link(draft, self._about)  # unlike a renamed file, it never takes the place of another
        except FileExistsError:
            self._compare()
        finally:
            draft.unlink(missing_ok=True)

    def _compare(self) -> None:
        try:
            there = dict(_leaves(json.loads(self._about.read_text(encoding="utf-8"))))
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"distill.cache: {self._about} cannot be read: {one_line(error, 160)}") from error
        here = dict(_leaves(json.loads(json.dumps(self.key))))
        for field in [*here, *there]:
            if field not in there or field not in here or there[field] != here[field]:
                raise UserError(
                    f"distill.cache: {str(self.root)!r} holds the answers of {self.name} "
                    f"{_OTHERWISE.get(field.partition('.')[0], 'to something else')}: {field} is "
                    f"{there.get(field)!r} there, {here.get(field)!r} here; give another folder"
                )


def _leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each leaf."""
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
