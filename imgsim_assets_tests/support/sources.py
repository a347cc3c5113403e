"""Catalog sources on disk, and what is read from them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.catalog.raw_rows import FILE, LINE, RawRows
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source, open_source
from imgsim_assets.catalog.validation import ValidatedRows, validate_rows
from imgsim_assets.errors import SourceError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """A file of exactly these bytes (text as UTF-8, line ends untouched)."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_odd_name(folder: Path, name: bytes, content: bytes = b"x") -> Path:
    """A file whose name is no UTF-8; the test is skipped where filesystems refuse such names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / os.fsdecode(name)
    try:
        path.write_bytes(content)
    except OSError:
        pytest.skip("this filesystem takes UTF-8 names only")
    return path


def age(path: Path, seconds: float = 3600.0) -> None:
    """Make a file look as if it was last written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def rewrite_unnoticed(path: Path, content: str) -> None:
    """Other content of the same size, under the old modification time."""
    before = path.stat()
    body = content.encode()
    assert len(body) == before.st_size
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def declared(path: str, **settings: Any) -> SourceSettings:
    """Settings as they come out of a YAML file."""
    return SourceSettings.model_validate({"path": path, **settings})


def source(folder: Path, path: str, **settings: Any) -> Source:
    """The opened source, its path relative to the folder."""
    return open_source(declared(path, **settings), folder)


def read(folder: Path, path: str, **settings: Any) -> RawRows:
    """What the reader makes of a source."""
    return read_source(source(folder, path, **settings))


def values(folder: Path, path: str, **settings: Any) -> pl.DataFrame:
    """The source's own columns as they were read."""
    return read(folder, path, **settings).frame().drop(FILE, LINE)


def validated(folder: Path, path: str, **settings: Any) -> ValidatedRows:
    """A source's rows and rejects."""
    opened = source(folder, path, **settings)
    return validate_rows(read_source(opened), opened)


def ids_or_refusal(folder: Path, path: str, **settings: Any) -> list[str] | str:
    """The ids of a source's rows, or the message it is refused with (without the folder)."""
    try:
        return validated(folder, path, **settings).rows["id"].to_list()
    except SourceError as refused:
        return str(refused).replace(str(folder), "")
