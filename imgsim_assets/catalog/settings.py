"""The settings of a catalog's source."""

from __future__ import annotations

import io
import re
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import Field, field_validator, model_validator

from imgsim_assets.settings import Secret, Settings

Format = Literal["csv", "tsv", "lines", "json", "jsonl", "xlsx", "parquet", "images"]
OnDuplicate = Literal["first", "last", "reject"]
# The user and password of a URL, and its query, which may hold a token.
_CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_QUERY = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://[^?#]*)[?#].*$")
_URL_PARTS = re.compile(
    r"[^:/?#]+://(?:(?P<user>[^/?#@:]*)(?::(?P<password>[^/?#]*))?@)?[^/?#]*[^?#]*(?:[?#](?P<query>.*))?"
)


class SourceSettings(Settings):
    """Where a catalog's rows come from, and which columns are the id and the image."""

    path: str | None = Field(
        None,
        min_length=1,
        description="list (csv, tsv, txt, json, jsonl, xlsx or parquet, also compressed or alone "
        "in a zip), a folder of images, or a glob of either; a local path (from the project's "
        "root) or an fsspec URL",
    )
    sql: str | None = Field(
        None, min_length=1, description="query whose rows are the items, instead of a path"
    )
    connection: Secret | None = Field(
        None, description="SQLAlchemy URL of the query's database, such as '{{ env.DB }}'"
    )
    id: str | None = Field(
        None,
        description="column of unique ids; default: recognized by its cells, else the image",
    )
    url: str | tuple[str, ...] | None = Field(
        None,
        description="column of image URLs or paths, or a list of such columns, each with further "
        "images of an item; default: recognized by its cells",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="text between the images of one cell; default: detected between URLs",
    )
    max_images: int = Field(
        10, ge=1, le=1000, description="images of an item; further ones are left out"
    )
    on_duplicate: OnDuplicate = Field(
        "first",
        description="which of several rows with one id is the item: the first, the last (of the "
        "files in the order of their names), or none of them",
    )
    format: Format | None = Field(None, description="default: by the suffix, else by the content")
    sheet: str | None = Field(None, description="sheet of a workbook; default: the only visible")
    encoding: str | None = Field(
        None,
        description="of text files; default: detected; a byte order mark takes precedence",
    )
    delimiter: str | None = Field(None, description="one character; default: detected")
    quote: str = Field('"', description="one character, or empty for a file without quoting")
    escape: str | None = Field(
        None, description="character that escapes a quote, or empty for none; default: detected"
    )
    ragged: Literal["pad", "reject"] | None = Field(
        None,
        description="lines with too few or too many fields: pad (extra fields get columns of "
        "their own) or reject; default: pad, but reject extra fields that are not empty",
    )
    skip_lines: int = Field(0, ge=0, description="lines before the table")
    comment: str | None = Field(
        None, min_length=1, description="lines that begin with this text are skipped"
    )
    header: bool = Field(True, description="whether the first line names the columns")
    columns: tuple[str, ...] | None = Field(
        None,
        description="column names; default: those of the header, else column_1, ...",
    )
    root: str | None = Field(
        None,
        description="folder that relative image paths start from and that must contain local "
        "images; default: the folder of the source",
    )
    allow_empty: bool = Field(
        False,
        description="whether a source without a usable row empties the catalog; else it fails",
    )

    @property
    def url_columns(self) -> tuple[str, ...]:
        """The declared columns of images; none if they are to be recognized."""
        if self.url is None:
            return ()
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def location(self) -> str:
        """The source for messages and metadata, without the secrets that a URL may hold."""
        return "the SQL query" if self.path is None else without_secrets(self.path)

    def masked(self, text: str) -> str:
        """A message of another library without the secrets of the path and the connection."""
        connection = self.connection.get_secret_value() if self.connection is not None else ""
        for url in (self.path or "", connection):
            for secret in filter(None, _secrets_of(url)):
                text = text.replace(secret, "***")
        return text

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        if value is None:
            return None
        character = "\t" if value == "\\t" else value
        if len(character) != 1 or character in '"\r\n':
            raise ValueError(f"{value!r} is not a delimiter: give one character, like ',' or '\\t'")
        return character

    @field_validator("url", mode="before")
    @classmethod
    def _check_url(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{value!r} is no column; give a name or a list of names, as text")
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one column, and each only once")
        return value

    @field_validator("separator")
    @classmethod
    def _check_separator(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return value.replace("\\n", "\n").replace("\\t", "\t")

    @field_validator("quote", "escape")
    @classmethod
    def _check_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) > 1 or value in ("\r", "\n")):
            raise ValueError(f"{value!r} is not a quote: give one character, or '' for none")
        return value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            io.TextIOWrapper(io.BytesIO(b""), encoding=value, errors="surrogateescape").read()
        except (LookupError, UnicodeError):
            raise ValueError(f"unknown encoding {value!r}; try utf-8, utf-16 or cp1252") from None
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> SourceSettings:
        if (self.path is None) == (self.sql is None):
            raise ValueError("path: give either a path, or 'sql' with a 'connection'")
        if (self.sql is None) != (self.connection is None):
            raise ValueError("connection: 'sql' and 'connection' belong together; give both")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: a name is listed twice; list it once")
        if self.quote and self.quote == self.delimiter:
            raise ValueError(f"quote: {self.quote!r} is also the delimiter; choose another")
        return self


def _secrets_of(url: str) -> tuple[str, ...]:
    """The parts of a URL that may be secret, as it was written and decoded."""
    match = _URL_PARTS.match(url)
    if match is None:
        return ()
    user, password, query = match["user"] or "", match["password"] or "", match["query"] or ""
    both = f"{user}:{password}" if password else ""
    return both, password, unquote(password), query


def without_secrets(url: str) -> str:
    """A URL without user, password and query; a path is returned unchanged."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub(r"\1", url))
