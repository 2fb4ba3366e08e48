"""What webdataset opens: regular files of this machine, and four kinds of address. It never runs a command.

Its own switch, `enforce_security`, forbids commands and rewritten addresses, but local files with them; so these are
opened here, and the rest is handed to webdataset with the switch on.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

FETCHED = ("http", "https", "gs", "hf")  # webdataset calls curl or gsutil for them, without a shell


def secure_webdataset() -> None:
    """Let webdataset, where it is installed, open no more than this in the whole process; it may be called again."""
    if find_spec("webdataset") is None:
        return
    import webdataset

    webdataset.utils.enforce_security = True
    its: Any = sys.modules["webdataset.gopen"]
    if its.gopen is not _open:
        _theirs.append(its.gopen)
        its.gopen = webdataset.gopen = _open


_theirs: list[Any] = []


def _open(url: str, mode: str = "rb", bufsize: int = 8192, **options: Any) -> Any:
    """In the place of webdataset's `gopen`. Raises `ValueError` for all that is not opened."""
    parts = urlsplit(url)
    if mode != "rb":
        raise ValueError(f"{url}: is only read")
    if parts.scheme in FETCHED:
        return _theirs[-1](url, mode, bufsize, **options)
    if parts.scheme not in ("", "file"):
        raise ValueError(f"{url}: {parts.scheme}: is not opened; only a path or {', '.join(FETCHED)}")
    path = Path(url2pathname(parts.path) if parts.scheme else url)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file")
    return path.open("rb")
