"""Checksums by which damage is seen. CRC-32, the quickest that there is here: the threat is damage, not an attacker."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

_END = b"\0\0"  # of an archive without a comment: the comment's length
DIGITS = 8
_CHUNK = 1 << 24  # bytes
_FOLDER = 0x10  # an archive's mark of a folder, which has no content


def digest(*parts: Any) -> str:
    """The checksum of these parts, text or what holds bytes, one behind the other, in eight hexadecimal digits."""
    found = 0
    for part in parts:
        found = zlib.crc32(part.encode() if isinstance(part, str) else part, found)
    return f"{found:0{DIGITS}x}"


def seal_archive(archive: BytesIO) -> None:
    """Put the checksum of a whole zip archive without a comment, as `torch.save` writes it, into its comment."""
    found = digest(archive.getbuffer())
    archive.seek(-len(_END), 2)
    archive.write(DIGITS.to_bytes(2, "little") + found.encode())


def damage_of_archive(path: Path) -> str | None:
    """What is damaged in a zip archive, in a few words; None where it is whole.

    A sealed archive is checked to the last bit, another one as far as the checksums of its records go. torch.load
    looks at neither.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sealed = archive.comment
            if not sealed:
                broken = archive.testzip()
                folders = [each.filename for each in archive.infolist() if each.external_attr & _FOLDER]
                broken = broken or next(iter(folders), None)
                return None if broken is None else f"its record {broken!r} does not fit its checksum"
        with path.open("rb") as file:
            length = path.stat().st_size - len(_END) - DIGITS
            found = digest(*_chunks(file, length), _END)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        return f"it is no whole archive ({' '.join(str(error).split())})"
    return None if found.encode() == sealed else "its content does not fit its checksum"


def _chunks(file: BinaryIO, length: int) -> Iterable[bytes]:
    while length > 0 and (chunk := file.read(min(length, _CHUNK))):
        length -= len(chunk)
        yield chunk
