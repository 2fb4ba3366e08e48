"""Checksums by which damage is seen. CRC-32, the quickest that there is here: the threat is damage, not an attacker."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

_END = b"\0\0"  # of an archive without a comment: the comment's length
DIGITS = 8
_FOLDER = 0x10  # an archive's mark of a folder, which has no content


def digest(*parts: Any) -> str:
    """The checksum of these parts, text or what holds bytes, one behind the other, in eight hexadecimal digits."""
    found = 0
    for part in parts:
        found = zlib.crc32(part.encode() if isinstance(part, str) else part, found)
    return f"{found:0{DIGITS}x}"


def seal_archive(archive: BytesIO) -> None:
    """Put into the comment of a zip archive, as `torch.save` writes it, the checksum of its directory.

    The directory holds the checksums of the records, which are not computed again for it.
    """
    with zipfile.ZipFile(archive) as opened:
        found = digest(archive.getbuffer()[opened.start_dir :])
    archive.seek(-len(_END), 2)
    archive.write(DIGITS.to_bytes(2, "little") + found.encode())


def damage_of_archive(path: Path) -> str | None:
    """What is damaged in a zip archive, in a few words; None where it is whole, which torch.load does not look at.

    An archive that is not sealed is checked as far as the checksums of its records go.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            file.seek(archive.start_dir)
            directory = file.read().removesuffix(archive.comment)
            if archive.comment and digest(directory[: -len(_END)], _END).encode() != archive.comment:
                return "its directory does not fit its checksum"
            folders = [each.filename for each in archive.infolist() if each.external_attr & _FOLDER]
            broken = archive.testzip() or next(iter(folders), None)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, zlib.error) as error:
        return f"it is no whole archive ({' '.join(str(error).split())})"
    return None if broken is None else f"its record {broken!r} does not fit its checksum"
