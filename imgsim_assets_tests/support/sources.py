"""Writes catalog sources to disk and reads them."""

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
    """Write a file with exactly these bytes (text as UTF-8, line ends unchanged)."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_invalid_name(folder: Path, name: bytes, content: bytes = b"x") -> Path:
    """Write a file whose name is not UTF-8; skips the test if the filesystem refuses it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / os.fsdecode(name)
    try:
        path.write_bytes(content)
    except OSError:
        pytest.skip("this filesystem accepts only UTF-8 names")
    return path


def set_age(path: Path, seconds: float = 3600.0) -> None:
    """Set the modification time of a file to some seconds ago."""
    mtime = time.time() - seconds
    os.utime(path, (mtime, mtime))


def rewrite_with_same_mtime(path: Path, content: str) -> None:
    """Replace the content by one of the same size, and keep the modification time."""
    before = path.stat()
    body = content.encode()
    assert len(body) == before.st_size
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def source_settings(path: str, **settings: Any) -> SourceSettings:
    """Source settings as from a YAML file."""
    return SourceSettings.model_validate({"path": path, **settings})


def find_source(folder: Path, path: str, **settings: Any) -> Source:
    """Open a source whose path is relative to the folder."""
    return open_source(source_settings(path, **settings), folder)


def read_raw(folder: Path, path: str, **settings: Any) -> RawRows:
    """Read the raw rows of a source."""
    return read_source(find_source(folder, path, **settings))


def read_values(folder: Path, path: str, **settings: Any) -> pl.DataFrame:
    """Read the columns of a source, without file and line."""
    return read_raw(folder, path, **settings).frame().drop(FILE, LINE)


def validate(folder: Path, path: str, **settings: Any) -> ValidatedRows:
    """Read and validate a source."""
    opened = find_source(folder, path, **settings)
    return validate_rows(read_source(opened), opened)


def ids_or_error(folder: Path, path: str, **settings: Any) -> list[str] | str:
    """The ids of the valid rows, or the message of the error without the folder."""
    try:
        return validate(folder, path, **settings).rows["id"].to_list()
    except SourceError as error:
        return str(error).replace(str(folder), "")
