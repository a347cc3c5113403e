"""Detects how a list separates its fields, and where its table begins."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imgsim_assets.catalog.delimited import Dialect, Record, null_field, records
from imgsim_assets.catalog.locations import is_location
from imgsim_assets.catalog.text import ZERO_WIDTH

_DELIMITERS = ",\t;|"
_SAMPLE_LINES = 50
_MAX_PREAMBLE = 20
# The first line by which Excel declares the delimiter, which it may have quoted and padded.
_SEP_LINE = re.compile(r"""^["']?sep=(\\t|.)["']?[,;\t|]*\s*$""", re.IGNORECASE)
_COMMENT_MARKS = ("#", "//", "--", "%", ";", "!")
_NAME = re.compile(r"[\w .-]{1,40}")


@dataclass(frozen=True)
class Preamble:
    """Lines before the table.

    Attributes:
        lines: their number.
        comment: the mark that all of them begin with.
    """

    lines: int
    comment: str | None


def take_sample(lines: Iterator[str]) -> list[str]:
    """The first lines, enough to detect the dialect."""
    return list(itertools.islice(lines, _SAMPLE_LINES))


def declared_delimiter(sample: Sequence[str]) -> str | None:
    """The delimiter that a first line such as `sep=;` declares."""
    match = _SEP_LINE.match(sample[0].lstrip(ZERO_WIDTH)) if sample else None
    return match[1].replace("\\t", "\t") if match else None


def detect_delimiter(sample: Sequence[str], quote: str, escape: str = "") -> str:
    """The delimiter that gives the most lines the same number of fields.

    Where none splits the first line of a list of URLs, it is one that no URL contains.
    Else it is a comma.
    """
    agreement = {each: _agreement(sample, Dialect(each, quote, escape)) for each in _DELIMITERS}
    urls = [line.strip() for line in sample[1:] if line.strip()]
    if not any(width for _, width in agreement.values()) and all(map(is_location, urls)):
        unused = (each for each in _DELIMITERS if not any(each in line for line in sample))
        return next(unused, ",")
    return max(_DELIMITERS, key=agreement.__getitem__)


def needs_escape(sample: Sequence[str], dialect: Dialect) -> bool:
    r"""Whether backslashes are escapes: more lines are readable then, or nulls are `\N`."""
    null = null_field(dialect.delimiter)
    if any("\\N" in line and null.search(line) for line in sample):
        return True
    if not dialect.quote or not any(f"\\{dialect.quote}" in line for line in sample):
        return False
    escaped = Dialect(dialect.delimiter, dialect.quote, "\\")
    return _problems(sample, escaped) < _problems(sample, dialect)


def has_spaced_quotes(sample: Sequence[str], dialect: Dialect) -> bool:
    """Whether blanks stand between the delimiters and the quotes of the first line."""
    first = next(records(iter(sample), dialect), None)
    if first is None or not dialect.quote:
        return False
    opened = f" {dialect.quote}"
    return any(field.startswith(opened) and field.endswith(dialect.quote) for field in first.fields)


def has_single_quotes(sample: Sequence[str], delimiter: str) -> bool:
    """Whether all fields of the first line are in single quotes."""
    first = next(records(iter(sample), Dialect(delimiter, "")), None)
    return first is not None and all(
        len(field) > 1 and field.strip().startswith("'") and field.strip().endswith("'")
        for field in first.fields
    )


def fits_header(sample: Sequence[str], dialect: Dialect) -> bool:
    """Whether the first line has several fields, and most lines have as many."""
    agreeing, width = _agreement(sample, dialect)
    lines = sum(bool(line.strip()) for line in sample)
    return width > 1 and 2 * agreeing > lines


def find_preamble(sample: Sequence[str], quote: str) -> Preamble | None:
    """The lines before the first record from which on the lines have several fields.

    Only where the table holds images.
    """
    best = max(
        (
            (_agreement(sample[start:], Dialect(delimiter, quote)), -start)
            for start in range(1, min(_MAX_PREAMBLE, len(sample) - 1))
            if sample[start].strip()
            for delimiter in _DELIMITERS
            if _is_table(sample[start:], Dialect(delimiter, quote))
        ),
        default=None,
    )
    if best is None:
        return None
    lines = -best[1]
    return Preamble(lines, common_mark(sample[:lines]))


def common_mark(lines: Sequence[str]) -> str | None:
    """The comment mark that all lines begin with."""
    texts = [line.lstrip(ZERO_WIDTH).strip() for line in lines]
    for mark in _COMMENT_MARKS:
        if all(text.startswith(mark) for text in texts if text):
            return mark
    return None


def is_table(sample: Sequence[str], quote: str) -> bool:
    """Whether lines of a text file are records of several fields, rather than one image each."""
    lines = [line.lstrip(ZERO_WIDTH) for line in sample if line.strip()]
    if not lines:
        return False
    if declared_delimiter(lines) is not None:
        return True
    delimiter = detect_delimiter(lines, quote)
    agreeing, width = _agreement(lines, Dialect(delimiter, quote))
    if width > 1 and agreeing >= 0.8 * len(lines):
        # A URL may contain any delimiter but a tab.
        return delimiter == "\t" or not is_location(lines[0].split(delimiter)[0])
    # A name above URLs is a header.
    first, *others = (line.strip() for line in lines)
    is_name = _NAME.fullmatch(first) is not None and not is_location(first)
    return bool(others) and is_name and all(map(is_location, others))


def _is_table(lines: Sequence[str], dialect: Dialect) -> bool:
    parsed = list(records(iter(lines), dialect))
    header, *rows = parsed if parsed else [Record(0, [])]
    if header.problem or len(header.fields) < 2 or any(map(is_location, header.fields)):
        return False
    widths = Counter(len(_trimmed(row.fields)) for row in rows)
    fitting = sum(n for width, n in widths.items() if 1 < width <= len(header.fields))
    has_image = any(is_location(cell) for row in rows for cell in row.fields)
    return has_image and fitting >= 0.8 * len(rows)


def _trimmed(fields: Sequence[str]) -> Sequence[str]:
    """The fields without the empty ones at the end."""
    count = len(fields)
    while count and not fields[count - 1].strip():
        count -= 1
    return fields[:count]


def _agreement(sample: Sequence[str], dialect: Dialect) -> tuple[int, int]:
    """How many records have the number of fields of the first one, and that number."""
    parsed = list(records(iter(sample), dialect))
    if not parsed or parsed[0].problem or len(parsed[0].fields) == 1:
        return (0, 0)
    width = len(parsed[0].fields)
    return (sum(not record.problem and len(record.fields) == width for record in parsed), width)


def _problems(sample: Sequence[str], dialect: Dialect) -> int:
    return sum(record.problem is not None for record in records(iter(sample), dialect))
