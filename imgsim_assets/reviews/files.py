"""Decisions in CSV, TSV and Parquet files, as people and other tools write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from imgsim_assets.catalog.dialect import detect_delimiter, take_sample
from imgsim_assets.errors import SourceError, one_line
from imgsim_assets.reviews.table import SCHEMA, VERDICTS

REQUIRED = ("left_id", "right_id", "verdict")
ROW = "row"
_SHA256 = r"^[0-9a-f]{64}$"
_SHOWN = 3


def read_verdicts(path: Path, *, reviewer: str | None = None) -> pl.DataFrame:
    """The decisions of a file.

    The columns left_id, right_id and verdict are required; a row without a verdict is not judged
    yet, and is passed over. `decided_at` is an ISO 8601 time, UTC where it names no zone.

    Args:
        path: a .csv, .tsv or .parquet file.
        reviewer: of the rows that name none.

    Returns:
        `row` (from 1, without the header) and the columns of SCHEMA in the order of the file;
        left_sha256, right_sha256 and decided_at may be null.

    Raises:
        SourceError: when the file cannot be read, a row is not a decision, or two rows contradict
            each other; names the rows.
    """
    raw = _read(path)
    missing = [name for name in REQUIRED if name not in raw.columns]
    if missing:
        raise SourceError(
            f"{path} has no column {' and no column '.join(missing)}; it has "
            f"{', '.join(raw.columns) or 'none'}. A decision needs {', '.join(REQUIRED)}"
        )
    rows = pl.DataFrame(
        {name: _column(path, raw, name) for name in SCHEMA if name not in ("decided_at", "source")}
    ).with_columns(_times(path, raw), pl.lit(path.name).alias("source"))
    rows = rows.with_row_index(ROW, offset=1).filter(pl.col("verdict").is_not_null())
    _check(path, rows, "left_id", pl.col("left_id").is_null(), "is empty")
    _check(path, rows, "right_id", pl.col("right_id").is_null(), "is empty")
    _check(
        path,
        rows,
        "verdict",
        ~pl.col("verdict").is_in(VERDICTS),
        f"is not one of {', '.join(VERDICTS)}",
    )
    for name in ("left_sha256", "right_sha256"):
        malformed = ~pl.col(name).str.contains(_SHA256)
        _check(path, rows, name, malformed, "is not a sha256 of 64 hex digits")
    rows = rows.with_columns(pl.coalesce("reviewer", pl.lit(reviewer, pl.String)))
    _check_contradictions(path, rows)
    return rows.select(ROW, *SCHEMA)


def _read(path: Path) -> pl.DataFrame:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        if suffix == ".tsv":
            return pl.read_csv(path, infer_schema=False, separator="\t")
        if suffix == ".csv":
            with path.open(encoding="utf-8-sig", errors="replace") as lines:
                delimiter = detect_delimiter(take_sample(lines), '"')
            return pl.read_csv(path, infer_schema=False, separator=delimiter)
    except FileNotFoundError:
        raise SourceError(
            f"there is no file {str(path)!r}; without decisions yet, write the line "
            f"{','.join(REQUIRED)}"
        ) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{path} cannot be read: {one_line(error)}") from error
    raise SourceError(f"{path} is not one of .csv, .tsv, .parquet")


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
    bad = rows.filter(is_bad)
    if not bad.height:
        return
    shown = [
        f"row {row}" + (f" ({value!r})" if value is not None else "")
        for row, value in bad.select(ROW, name).head(_SHOWN).iter_rows()
    ]
    more = f" and {bad.height - _SHOWN} more" if bad.height > _SHOWN else ""
    raise SourceError(f"{path}: {name} {problem} in {', '.join(shown)}{more}")


def _check_contradictions(path: Path, rows: pl.DataFrame) -> None:
    """Raise SourceError for two verdicts of one person about one pair at the same time."""
    decided = ["left_id", "right_id", "reviewer", "decided_at"]
    differing = (
        rows.group_by(decided, maintain_order=True)
        .agg(pl.col("verdict").n_unique().alias("verdicts"), pl.col(ROW))
        .filter(pl.col("verdicts") > 1)
    )
    if differing.height:
        first = " and ".join(map(str, differing[ROW][0].to_list()))
        raise SourceError(
            f"{path}: rows {first} contradict each other; keep one of them, or give each a "
            "'decided_at'"
        )
