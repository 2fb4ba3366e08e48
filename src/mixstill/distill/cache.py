"""One teacher's answers on disk: a folder with what they depend on, and a file per epoch with a record per step.

The file begins with the checksums of all steps, four bytes each; behind them the answers to each batch, in its order,
have a fixed place. A checksum is written after its answers, and is that of these answers to this step by this key; so a
step is there if and only if its checksum fits, whoever was killed, or writes at the same time.
Shapes: B batch, K classes, W bytes of an answer (`mixstill.distill.form`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
from mixstill.paths import read_regular
from mixstill.texts import parse_object

VERSION = 2  # of the layout
_CHECKSUM = 4  # bytes
_LONGEST = 60  # characters of a folder's name; file systems take 255 bytes
_TOLD = 3  # fields that differ
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
        """Where its answers lie. Where the name is too long for a folder, the weights tell it from others."""
        name = quote(self.name, safe=" ")
        if len(name) > _LONGEST:
            weights = f"-{self.key['teacher']['weights'][:8]}"
            name = quote(Path(self.name).stem, safe=" ")[: _LONGEST - len(weights)] + weights
        return self.root / name

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

    def load(self, epoch: int, index: int, damaged: Callable[[], None] = lambda: None) -> Bytes | None:
        """The answers to a batch, uint8 [B,W]; None where they are not there, or damaged: then `damaged` is called."""
        with self._opened(epoch) as read:
            checksum = read(index * _CHECKSUM, _CHECKSUM)  # before the answers, which another process may write now
            content = read(self._place(index), self._size) if any(checksum) else b""
        if not content:
            return None
        answers = np.frombuffer(bytearray(content), np.uint8).reshape(self.rows, self.form.width)
        if checksum == self._checksum(answers, epoch, index):
            return answers
        damaged()
        return None

    def store(self, epoch: int, index: int, answers: Bytes) -> None:
        """Put the answers to a batch there, uint8 [B,W]. The first of an epoch takes the room for all of them.

        Raises:
            RunError: an answer that is not finite.
            UserError: the folder holds, by now, answers that depend on something else.
            OSError: the disk is full, or cannot be written to; it tells the file.
        """
        if not self.form.finite(torch.from_numpy(answers)):
            raise RunError(f"{self.name}: its answers to step {epoch * self.steps + index + 1} are not all finite")
        path = self._file(epoch)
        try:
            if not self._about.exists():
                self._claim()
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _reserve(file, self.steps * self.record)
                _write(file, answers.tobytes(), self._place(index))
                _write(file, self._checksum(answers, epoch, index), index * _CHECKSUM)
            finally:
                os.close(file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def there(self, epoch: int) -> npt.NDArray[np.bool_]:
        """Which steps of an epoch have a record, bool [steps]; whether it is whole is only seen when it is loaded."""
        with self._opened(epoch) as read:
            head = read(0, self.steps * _CHECKSUM)
        checksums = np.frombuffer(head or bytes(self.steps * _CHECKSUM), np.uint8)
        return np.asarray(checksums.reshape(self.steps, _CHECKSUM).any(axis=1))

    @contextmanager
    def _opened(self, epoch: int) -> Iterator[Callable[[int, int], bytes]]:
        """Reads (place, bytes) of the file of an epoch; it reads nothing where there is no such file, or none so long.

        Never through a memory map: of a file that is cut short, or on a disk that is full, that ends the process.
        """
        try:
            file = os.open(self._file(epoch), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe is not waited for
        except OSError:
            yield lambda place, count: b""
            return

        def read(place: int, count: int) -> bytes:
            try:
                content = os.pread(file, count, place)
                while 0 < len(content) < count and (more := os.pread(file, count - len(content), place + len(content))):
                    content += more
            except OSError:
                return b""
            return content if len(content) == count else b""

        try:
            about = os.fstat(file)
            whole = stat.S_ISREG(about.st_mode) and about.st_size == self.steps * self.record
            yield read if whole else lambda place, count: b""
        finally:
            os.close(file)

    @property
    def _size(self) -> int:
        """Bytes of the answers to a batch."""
        return self.record - _CHECKSUM

    def _place(self, index: int) -> int:
        """Where in a file the answers to a batch begin."""
        return self.steps * _CHECKSUM + index * self._size

    def _checksum(self, answers: Bytes, epoch: int, index: int) -> bytes:
        """Of these answers as those to this step by this key."""
        start = zlib.crc32(f"{epoch} {index}".encode(), self._seal)
        return (zlib.crc32(answers.data, start) or 1).to_bytes(_CHECKSUM, "little")

    @cached_property
    def _seal(self) -> int:
        """The key as a number; 1 and 1.0 are the same there."""
        plain = json.loads(json.dumps(self.key), parse_int=float)
        return zlib.crc32(json.dumps(plain, sort_keys=True).encode())

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
            _put(draft, self._about)
        except FileExistsError:
            self._compare()
        finally:
            draft.unlink(missing_ok=True)

    def _compare(self) -> None:
        try:
            there = dict(_leaves(parse_object(read_regular(self._about))))
        except (OSError, ValueError) as error:
            raise UserError(f"distill.cache: {self._about} cannot be read: {one_line(error, 160)}") from error
        here = dict(_leaves(json.loads(json.dumps(self.key))))
        common = {field for field in here.keys() & there.keys() if here[field] == there[field]}
        differing = [field for field in {**here, **there} if field not in common]
        if differing:
            texts = [f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in differing[:_TOLD]]
            more = [f"and {len(differing) - _TOLD} more"] if len(differing) > _TOLD else []
            raise UserError(
                f"distill.cache: {str(self.root)!r} holds the answers of {self.name} "
                f"{_OTHERWISE.get(differing[0].partition('.')[0], 'to something else')}: "
                f"{'; '.join([*texts, *more, 'give another folder'])}"
            )


def _reserve(file: int, size: int) -> None:
    """Make an open file `size` bytes long, with room for all of them on the disk where it can be had beforehand.

    Raises `OSError` where there is no room; the file is then as long as it was, so that others have what is left.
    """
    before = os.fstat(file).st_size
    if before == size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            os.ftruncate(file, before)
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot promise any
                raise
    os.ftruncate(file, size)


def _write(file: int, content: bytes, place: int) -> None:
    """Write all of `content`, which the system may take in pieces. Raises `OSError` where it takes no more."""
    left = memoryview(content)
    while left:
        taken = os.pwrite(file, left, place)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left, place = left[taken:], place + taken


def _put(draft: Path, path: Path) -> None:
    """A copy of a whole file at `path`. Raises `FileExistsError`, unlike a renaming, where there is one already."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # there are file systems without such links
        with path.open("xb") as file:
            file.write(draft.read_bytes())


def _leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each leaf."""
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
