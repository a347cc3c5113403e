"""What commands print and write: frames as tables, files by their suffix, JSON, progress bars."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import polars as pl

STDOUT = "-"
SUFFIXES = (".tsv", ".csv", ".parquet", ".jsonl")
_DECIMALS = 5
_SHOWN_ROWS = 20


def check_out(path: str | None) -> None:
    """Raise UsageError for an output file whose suffix says nothing, before any work is done."""
    if path is None or path == STDOUT:
        return
    if Path(path).suffix not in SUFFIXES:
        raise click.UsageError(f"--out: {path} ends in none of {', '.join(SUFFIXES)}")
    if not Path(path).absolute().parent.is_dir():
        raise click.UsageError(f"--out: there is no folder {Path(path).absolute().parent}")


def write_frame(frame: pl.DataFrame, path: str) -> None:
    """Write a frame as tsv, csv, parquet or jsonl, by its suffix; "-" is tsv on stdout.

    Text formats have five decimals, and quotes around fields with tabs, line breaks or quotes.
    """
    if path == STDOUT:
        click.echo(_delimited(frame, "\t"), nl=False)
        return
    suffix = Path(path).suffix
    unfinished = Path(path).with_name(f".unfinished-{uuid.uuid4().hex}{suffix}")
    try:
        if suffix == ".parquet":
            frame.write_parquet(unfinished)
        elif suffix == ".jsonl":
            frame.write_ndjson(unfinished)
        else:
            text = _delimited(frame, "\t" if suffix == ".tsv" else ",")
            unfinished.write_text(text, encoding="utf-8", newline="")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _delimited(frame: pl.DataFrame, separator: str) -> str:
    return frame.write_csv(separator=separator, float_precision=_DECIMALS, quote_style="necessary")


def show_frame(frame: pl.DataFrame, rows: int = _SHOWN_ROWS) -> None:
    """Print a frame for people."""
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=rows,
        tbl_cols=-1,
        tbl_width_chars=160,
        fmt_str_lengths=60,
        float_precision=_DECIMALS,
        tbl_formatting="UTF8_BORDERS_ONLY" if _is_utf8() else "ASCII_MARKDOWN",
    ):
        click.echo(str(frame.head(rows)))
    if frame.height > rows:
        click.echo(f"... {frame.height - rows} more rows")


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def show_json(document: Any) -> None:
    """Print a document as JSON."""
    click.echo(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, pl.DataFrame):
        return value.to_dicts()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Sequence | set):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


class ProgressBars:
    """Progress bars on stderr, two for each catalog: what is fetched, what is embedded."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], Any] = {}

    def begins(self, name: str, items: int) -> None:
        """Draw the bars of a catalog."""
        for kind in ("images", "embeddings"):
            task = self._progress.add_task(f"{name} {kind}", total=items)
            self._tasks[name, kind] = task

    def fetched(self, name: str, items: int) -> None:
        """Move the first bar."""
        self._progress.advance(self._tasks[name, "images"], items)

    def embedded(self, name: str, items: int) -> None:
        """Move the second bar."""
        self._progress.advance(self._tasks[name, "embeddings"], items)


@contextlib.contextmanager
def progress_bars(*, quiet: bool) -> Iterator[ProgressBars | None]:
    """Progress bars while the context lasts, where somebody looks at stderr."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield ProgressBars(progress)


def note(message: str, *, quiet: bool = False) -> None:
    """Say something on stderr."""
    if not quiet:
        click.echo(message, err=True)
