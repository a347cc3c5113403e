"""Delimited text, read record by record, so that a bad line affects no other line.

The csv module parses the records. This module adds line numbers, detection of the delimiter,
byte order marks, and recovery from a quote that is opened and never closed, which would
otherwise consume every line up to the next quote.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

# A longer record is treated as a quote that was never closed.
MAX_RECORD_LINES = 200
INVALID_TEXT = "bytes that are not valid text in the declared encoding"
_DELIMITERS = ",\t;|"
_SAMPLE_LINES = 50
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARK_INVALID = "imgsim_assets.mark"


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    """Replace undecodable bytes by an unpaired surrogate, which valid text cannot contain."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(_MARK_INVALID, _mark_invalid)


@dataclass(frozen=True)
class Dialect:
    """How fields are separated. With an empty `quote` no field is quoted."""

    delimiter: str
    quote: str = '"'


@dataclass(frozen=True)
class Record:
    """The fields of a record that starts at `line` (from 1), or why it cannot be read."""

    line: int
    fields: list[str]
    problem: str | None = None
    text: str = ""


def open_text(raw: IO[bytes], encoding: str) -> io.TextIOWrapper:
    """Decode a stream; a byte order mark takes precedence over the encoding.

    Bytes that are not valid text are marked: `is_valid` is False for their lines.
    """
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[type-var]
    head = buffered.peek(4)[:4]
    by_mark = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    return io.TextIOWrapper(
        buffered, encoding=by_mark or encoding, errors=_MARK_INVALID, newline=""
    )


def detect_delimiter(sample: Sequence[str], quote: str) -> str:
    """The delimiter that gives the most lines the same number of fields; else a comma."""

    def agreement(delimiter: str) -> tuple[int, int]:
        parsed = list(records(iter(sample), Dialect(delimiter, quote)))
        if not parsed or parsed[0].problem or len(parsed[0].fields) == 1:
            return (0, 0)
        width = len(parsed[0].fields)
        agreeing = sum(not record.problem and len(record.fields) == width for record in parsed)
        return (agreeing, width)

    return max(_DELIMITERS, key=agreement)


def take_sample(lines: Iterator[str]) -> list[str]:
    """The first lines, enough to detect the delimiter."""
    return [line for _, line in zip(range(_SAMPLE_LINES), lines, strict=False)]


def records(lines: Iterator[str], dialect: Dialect, width: int | None = None) -> Iterator[Record]:
    """Parse lines into records, skipping blank lines.

    A record that is broken (an unclosed quote, text after a closing quote, not `width` fields)
    is reported with its first line only; parsing continues with the next line.
    """
    pending = _Lines(lines)
    reader = csv.reader(
        pending,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        pending.start_record()
        problem = None
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            if not pending.taken:
                return
            problem = "a quote is opened and never closed"
        except csv.Error as error:
            problem = _explain(error, dialect)
        if problem is None and width is not None and fields and len(fields) != width:
            problem = f"{len(fields)} fields where {width} are expected"
        if problem is not None:
            pending.return_all_but_first()
        text = pending.taken[0].rstrip("\r\n")
        if problem is None and not is_valid("".join(pending.taken)):
            problem = INVALID_TEXT
        if problem is not None or fields:
            yield Record(pending.first_line, fields, problem, text if problem else "")


def _explain(error: csv.Error, dialect: Dialect) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened and never closed"
    if "expected after" in text:
        return f"text after a closing quote {dialect.quote} (a quote inside must be doubled)"
    return text


def is_valid(text: str) -> bool:
    """Whether a line read by `open_text` was valid in its encoding."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Lines:
    """An iterator of lines that can be returned, with the line number of the current record."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._returned: deque[str] = deque()
        self.taken: list[str] = []
        self.first_line = 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_RECORD_LINES:
            raise StopIteration
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.taken.append(line)
        return line

    def start_record(self) -> None:
        self.first_line += len(self.taken)
        self.taken = []

    def return_all_but_first(self) -> None:
        self._returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
