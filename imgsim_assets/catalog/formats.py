"""The format of a list: by the suffix of its name, else by its first bytes."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence

from imgsim_assets.catalog import dialect
from imgsim_assets.catalog.settings import Format
from imgsim_assets.errors import SourceError

FORMATS = "csv, tsv, lines, json, jsonl, xlsx, parquet, images"
# "" leaves it to the content: `.txt` may be a table, and `.json` may have a document per line.
_FORMATS: Mapping[str, Format | None] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": None,
    ".json": None,
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xlsb": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".zip", ".tar", ".tgz")
_HTML = re.compile(r"<(?:!doctype html|html|head|body)", re.IGNORECASE)
_XML = re.compile(r"<\?xml|<(?:rss|feed|svg|products)\b", re.IGNORECASE)
_OLD_WORKBOOK = bytes.fromhex("d0cf11e0")


def plain_name(path: str) -> str:
    """A path or URL in lower case, without the query behind its suffix."""
    return re.sub(r"(\.\w+)[?#].*$", r"\1", path.lower())


def suffix(path: str) -> str:
    """The suffix of a path or URL in lower case, without a query."""
    return posixpath.splitext(plain_name(path))[1]


def format_of_name(path: str) -> Format | None:
    """The format that the suffix tells, below a suffix of compression."""
    return _FORMATS.get(_list_suffix(path))


def names_list(path: str) -> bool:
    """Whether a suffix is that of a list, rather than of a note among images."""
    kind = _list_suffix(path)
    return kind in ARCHIVES or (kind in _FORMATS and kind != ".txt")


def suffix_of_format(name: Format) -> str:
    """The usual suffix of a format."""
    return {"lines": ".txt", "json": ".json"}.get(name) or next(
        suffix for suffix, format_name in _FORMATS.items() if format_name == name
    )


def format_of_content(head: bytes, lines: list[str], location: str) -> Format:
    """The format that the first bytes, and the first lines of text, show.

    Raises:
        SourceError: it is not a list; the message says what it is.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"PK\x03\x04", _OLD_WORKBOOK)):
        return "xlsx"
    refuse_markup(lines, location)
    if b"\0" in head and any("\0" in line for line in lines):
        raise SourceError(
            f"{location} is not text; if it is a list, set 'format:' to one of {FORMATS}"
        )
    return _text_format(lines)


def refuse_markup(lines: Sequence[str], location: str) -> None:
    """Raise SourceError for an HTML page or XML in place of a list."""
    first = next((line.lstrip("\ufeff \t") for line in lines if line.strip("\ufeff \t\r\n")), "")
    if _HTML.match(first):
        raise SourceError(
            f"{location} is an HTML page, not a list: a page of a login or of an error? Open it "
            "in a browser, and give the address of the list itself"
        )
    if _XML.match(first):
        raise SourceError(f"{location} is XML, which cannot be read; export it as csv or jsonl")


def _text_format(lines: list[str]) -> Format:
    first = next((line.lstrip("\ufeff").strip() for line in lines if line.strip("\ufeff \r\n")), "")
    if first.startswith(("[", "{")):
        return "jsonl" if _is_document(first) and len(lines) > 1 else "json"
    return "csv" if dialect.is_table(lines, '"') else "lines"


def _is_document(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _list_suffix(path: str) -> str:
    stem, last = posixpath.splitext(plain_name(path))
    return posixpath.splitext(stem)[1] if last in COMPRESSIONS else last
