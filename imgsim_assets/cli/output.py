"""What commands print and write: frames as tables, files by their suffix, JSON, progress bars."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from imgsim_assets.cli.options import STDOUT, is_raw
from imgsim_assets.cli.spreadsheet import for_spreadsheet
from imgsim_assets.cli.terminal import echo
from imgsim_assets.encoders.settings import RECOMMENDED
from imgsim_assets.progress import Log, ProgressListener, silent
from imgsim_assets.similarity.copies_hint import ReportedThreshold, copies_hint
from imgsim_assets.similarity.settings import DECLARED, NO_THRESHOLD
from imgsim_assets.text import REPLACEMENT, UNPRINTABLE, UNPRINTABLE_IN_LINE

_DECIMALS = 5
_MAX_ROWS = 20


def write_frame(frame: pl.DataFrame, path: str) -> None:
    """Write a frame as tsv, csv, parquet or jsonl, by its suffix; "-" is tsv on stdout.

    TSV and CSV have five decimals, and quotes around fields with tabs, line breaks or quotes.
    Spreadsheets open them: without `--raw`, an apostrophe precedes a text that looks like a
    formula, and control characters are replaced.
    """
    if path == STDOUT:
        echo(_delimited(frame, "\t"), nl=False)
        return
    suffix = Path(path).suffix
    with _replaced(path) as unfinished:
        if suffix == ".parquet":
            frame.write_parquet(unfinished)
        elif suffix == ".jsonl":
            frame.write_ndjson(unfinished)
        else:
            text = _delimited(frame, "\t" if suffix == ".tsv" else ",")
            unfinished.write_text(text, encoding="utf-8", newline="")


def write_text(text: str, path: str) -> None:
    """Write a text file, which is complete or not there."""
    with _replaced(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def _replaced(path: str) -> Iterator[Path]:
    """A new file beside `path`, which takes its place at the end."""
    unfinished = Path(path).with_name(f".unfinished-{uuid.uuid4().hex}{Path(path).suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _delimited(frame: pl.DataFrame, separator: str) -> str:
    if not is_raw():
        frame = for_spreadsheet(frame)
    return frame.write_csv(separator=separator, float_precision=_DECIMALS, quote_style="necessary")


def show_frame(frame: pl.DataFrame, max_rows: int = _MAX_ROWS) -> None:
    """Print a frame as a table of at most `max_rows` rows."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=max_rows,
        tbl_cols=-1,
        tbl_width_chars=160,
        fmt_str_lengths=60,
        float_precision=_DECIMALS,
        tbl_formatting="UTF8_BORDERS_ONLY" if is_utf8 else "ASCII_MARKDOWN",
    ):
        echo(str(_printable_cells(frame.head(max_rows))))
    if frame.height > max_rows:
        echo(f"... {frame.height - max_rows} more rows")


def _printable_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with each cell on one line; names of columns too, which may be ids."""
    cells = frame.with_columns(cs.string().str.replace_all(UNPRINTABLE_IN_LINE, REPLACEMENT))
    return cells.rename(lambda name: re.sub(UNPRINTABLE_IN_LINE, REPLACEMENT, name))


def show_result(
    frame: pl.DataFrame,
    summary: str,
    *,
    out: str | None,
    document: object = None,
    hidden: Sequence[str] = (),
) -> None:
    """Write a frame to `out`, and print a JSON document or else a summary.

    Without `out` and `document`, the frame follows the summary, without its `hidden` columns.
    """
    if out is not None:
        write_frame(frame, out)
    if document is not None:
        show_json(document)
    elif out != STDOUT:
        echo(summary)
        if out is None and frame.height:
            show_frame(frame.drop(hidden))


def threshold_lines(
    report: ReportedThreshold, *, finds_copies: bool = False, has_budget: bool = False
) -> list[str]:
    """Where the threshold of a report comes from, unless it was given as a number.

    Args:
        report: of the result.
        finds_copies: as of `copies_hint`.
        has_budget: a budget of false matches was given, which only a measured threshold keeps.
    """
    source = report.threshold_source
    lines = [] if source in (DECLARED, NO_THRESHOLD) else [f"threshold {source}"]
    if has_budget and source.startswith(RECOMMENDED):
        lines.append("  --false-matches does not apply to it; to measure one, set --threshold auto")
    hint = copies_hint(report, _as_option, finds_copies=finds_copies)
    return lines if hint is None else [*lines, hint]


def _as_option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def show_json(document: Any) -> None:
    """Print a document as JSON."""
    text = json.dumps(document, indent=2, default=_jsonable, ensure_ascii=False)
    # JSON itself escapes only the characters below the blank.
    echo(re.sub(UNPRINTABLE, lambda match: f"\\u{ord(match[0]):04x}", text))


def _jsonable(value: Any) -> Any:
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


def log_to_stderr(message: str) -> None:
    """Print a message on stderr."""
    echo(message, err=True)


class ProgressBars(ProgressListener):
    """Progress bars on stderr, two for each catalog: images fetched, and images embedded."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], Any] = {}

    def started(self, name: str, images: int) -> None:
        """Draw the bars of a catalog."""
        for kind in ("images", "embeddings"):
            self._tasks[name, kind] = self._progress.add_task(f"{name} {kind}", total=images)

    def fetched(self, name: str, images: int) -> None:
        """Advance the bar of images."""
        self._progress.advance(self._tasks[name, "images"], images)

    def embedded(self, name: str, images: int) -> None:
        """Advance the bar of embeddings."""
        self._progress.advance(self._tasks[name, "embeddings"], images)


@contextlib.contextmanager
def show_progress(*, quiet: bool) -> Iterator[tuple[Log, ProgressBars | None]]:
    """Show progress on stderr: bars on a terminal, else lines of the log.

    Yields:
        The log for the pipeline, and its progress listener, None without bars.
    """
    if quiet or not sys.stderr.isatty():
        yield silent if quiet else log_to_stderr, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield silent, ProgressBars(progress)
