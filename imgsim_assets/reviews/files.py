"""Decisions in CSV, TSV and Parquet files, as people and other tools write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from imgsim_assets.errors import SourceError, one_line
from imgsim_assets.reviews.table import SCHEMA, VERDICTS

REQUIRED = ("left_id", "right_id", "verdict")
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".tsv": lambda path: pl.read_csv(path, infer_schema=False, separator="\t"),
    ".parquet": pl.read_parquet,
}
_SHA256 = r"^[0-9a-f]{64}$"
_SHOWN = 3


def read_verdicts(path: Path, *, reviewer: str | None = None) -> pl.DataFrame:
    """The decisions of a file.

    The columns left_id, right_id and verdict are required. `decided_at` is an ISO 8601 time, UTC
    where it names no zone.

    Args:
        path: a .csv, .tsv or .parquet file.
        reviewer: of the rows that name none.

    Returns:
        A frame of SCHEMA in the order of the file; left_sha256, right_sha256 and decided_at may
        be null.

    Raises:
        SourceError: when the file cannot be read, or a row is not a decision; names the row.
    """
    raw = _read(path)
    missing = [name for name in REQUIRED if name not in raw.columns]
    if missing:
        raise SourceError(
            f"{path} has no column {' and no column '.join(missing)}; it has "
            f"{', '.join(raw.columns) or 'none'}. A decision needs {', '.join(REQUIRED)}"
        )
    rows = pl.DataFrame(
        {name: _column(path, raw, name) for name in SCHEMA if name != "decided_at"}
    ).with_columns(_times(path, raw))
    _check(path, rows, "left_id", pl.col("left_id").is_null(), "is empty")
    _check(path, rows, "right_id", pl.col("right_id").is_null(), "is empty")
    _check(
        path,
        rows,
        "verdict",
        ~pl.col("verdict").is_in(VERDICTS).fill_null(value=False),
        f"is not one of {', '.join(VERDICTS)}",
    )
    for name in ("left_sha256", "right_sha256"):
        malformed = ~pl.col(name).str.contains(_SHA256)
        _check(path, rows, name, malformed, "is not a sha256 of 64 hex digits")
    return rows.with_columns(pl.coalesce("reviewer", pl.lit(reviewer, pl.String))).select(
        list(SCHEMA)
    )


def _read(path: Path) -> pl.DataFrame:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"{path} is not one of {', '.join(_READERS)}")
    try:
        return reader(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{path} cannot be read: {one_line(error)}") from error


def _column(path: Path, raw: pl.DataFrame, name: str) -> pl.Series:
    """A column as text without blanks around it; empty cells and missing columns are null."""
    if name not in raw.columns:
        return pl.Series(name, [None] * raw.height, pl.String)
    try:
        text = raw[name].cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError:
        raise SourceError(
            f"{path}: column {name} is of type {raw[name].dtype}; write text"
        ) from None
    if name == "verdict" or name.endswith("sha256"):
        text = text.str.to_lowercase()
    return text.set(text == "", None)


def _times(path: Path, raw: pl.DataFrame) -> pl.Series:
    dtype = SCHEMA["decided_at"]
    if "decided_at" in raw.columns and raw["decided_at"].dtype.is_temporal():
        return raw["decided_at"].cast(dtype)
    texts = _column(path, raw, "decided_at").to_list()
    parsed = [None if text is None else _time(path, row, text) for row, text in enumerate(texts, 1)]
    return pl.Series("decided_at", parsed, pl.Datetime("us", "UTC")).cast(dtype)


def _time(path: Path, row: int, text: str) -> datetime:
    try:
        # A number alone would be read as a year.
        time = datetime.fromisoformat(text) if re.match(r"\d{4}-", text) else None
    except ValueError:
        time = None
    if time is None:
        raise SourceError(
            f"{path} row {row}: decided_at {text!r} is not an ISO 8601 time, such as "
            "2026-05-31T14:00:00Z"
        )
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _check(path: Path, rows: pl.DataFrame, name: str, is_bad: pl.Expr, problem: str) -> None:
    bad = rows.with_row_index("row", offset=1).filter(is_bad)
    if not bad.height:
        return
    shown = [
        f"row {row}" + (f" ({value!r})" if value is not None else "")
        for row, value in bad.select("row", name).head(_SHOWN).iter_rows()
    ]
    more = f" and {bad.height - _SHOWN} more" if bad.height > _SHOWN else ""
    raise SourceError(f"{path}: {name} {problem} in {', '.join(shown)}{more}")
