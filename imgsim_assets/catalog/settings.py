"""The settings of a catalog's source."""

from __future__ import annotations

import io
from typing import Literal

from pydantic import Field, field_validator, model_validator

from imgsim_assets.settings import Settings

Format = Literal["csv", "tsv", "lines", "jsonl", "parquet", "images"]


class SourceSettings(Settings):
    """Where a catalog's rows come from, and which columns are the id and the image."""

    path: str = Field(
        min_length=1,
        description="csv, tsv, txt (one image per line), jsonl or parquet file, a folder of "
        "images, or a glob of either; a local path (from the project's root) or an fsspec URL",
    )
    id: str | None = Field(
        None, description="column of unique ids; default 'id' if that exists, else the url column"
    )
    url: str | None = Field(
        None,
        description="column of image URLs or paths; default 'url', or the only column",
    )
    format: Format | None = Field(None, description="default: by the file's suffix")
    delimiter: str | None = Field(None, description="one character; default: detected")
    quote: str = Field('"', description="one character, or empty for a file without quoting")
    header: bool = Field(True, description="whether the first line names the columns")
    columns: tuple[str, ...] | None = Field(
        None,
        description="column names; default: those of the header, else column_1, ...",
    )
    encoding: str = Field("utf-8", description="of text files; a byte order mark takes precedence")
    root: str | None = Field(
        None,
        description="folder that relative image paths start from and that must contain local "
        "images; default: the folder of the source",
    )
    allow_empty: bool = Field(
        False,
        description="whether a source without a usable row empties the catalog; else it fails",
    )

    @field_validator("delimiter")
    @classmethod
    def _check_delimiter(cls, value: str | None) -> str | None:
        if value is None:
            return None
        character = "\t" if value == "\\t" else value
        if len(character) != 1 or character in '"\r\n':
            raise ValueError(f"{value!r} is not a delimiter: give one character, like ',' or '\\t'")
        return character

    @field_validator("quote")
    @classmethod
    def _check_quote(cls, value: str) -> str:
        if len(value) > 1 or value in ("\r", "\n"):
            raise ValueError(f"{value!r} is not a quote: give one character, or '' for none")
        return value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            io.TextIOWrapper(io.BytesIO(b""), encoding=value, errors="surrogateescape").read()
        except (LookupError, UnicodeError):
            raise ValueError(f"unknown encoding {value!r}; try utf-8, utf-16 or cp1252") from None
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> SourceSettings:
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: every name must be unique")
        if self.quote and self.quote == self.delimiter:
            raise ValueError(f"quote: {self.quote!r} is also the delimiter; choose another")
        return self
