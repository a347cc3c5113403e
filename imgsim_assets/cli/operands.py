"""The operands of `imgsim match`: lists of images, and catalogs in the store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import click
import polars as pl

from imgsim_assets.catalog.columns import choose_columns
from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings, without_secrets
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.catalog.validation import no_rows_message, validate_rows
from imgsim_assets.cli.option_names import in_shell_words
from imgsim_assets.cli.options import ListOptions, parse_settings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SourceError, StoreError
from imgsim_assets.pipeline.loader import Loader, find_loader
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.shards import shards_for
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.storage.store import Store

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = get_args(Side)
_CATALOG_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class CatalogArg:
    """A catalog that an operand names.

    Attributes:
        name: the catalog's name in the store.
        title: the operand as it was typed, without the query of a URL.
        settings: how to read and process a list; None for a catalog of the store.
        loader: gives the images in place of the download.
        fields: the source's columns in the result, in their order; None for all.
    """

    name: str
    title: str
    settings: CatalogSettings | None = None
    loader: Loader | None = None
    fields: Sequence[str] | None = None

    def rows(self, store: Store) -> pl.DataFrame:
        """The items' ids as `__id`, and their fields under the source's column names."""
        table = items_table(store, self.name)
        commit = table.latest()
        if commit is None:
            raise StoreError(f"{self.name}/items has no version yet; materialize it first")
        rows = table.read(commit)
        names = _source_names(rows.columns, commit.properties, self.fields)
        fields = self.fields or list(dict.fromkeys(names.values()))
        by_source = {source: column for column, source in reversed(names.items())}
        return rows.select(
            pl.col("id").alias("__id"), *(pl.col(by_source[name]).alias(name) for name in fields)
        )


def _source_names(
    columns: Sequence[str], properties: Mapping[str, Any], fields: Sequence[str] | None
) -> dict[str, str]:
    """The source's name of each column of an items table."""
    id_column, url_column = properties["id_column"], properties["url_column"]
    extra = [name for name in fields or () if name not in (id_column, url_column)]
    # Where the image is the id, the result shows the image.
    names = {"url": url_column} if id_column == url_column else {"id": id_column, "url": url_column}
    for column in columns[2:]:
        # An extra column that had the name of one of the table's own has a prefix.
        source = column
        while source.startswith("source_") and source not in extra:
            source = source.removeprefix("source_")
        names[column] = source if source in extra or source in ("id", "url") else column
    return names


def resolve_operand(
    text: str,
    side: Side,
    store: Store,
    options: ListOptions,
    encoder: EncoderSettings,
    download: DownloadSettings,
) -> CatalogArg:
    """The catalog that an operand names: one of the store, or that of a list or folder.

    Raises:
        StoreError: `text` is neither a file nor a catalog of the store.
        SourceError: the list cannot be read or has no valid row, or its columns are not clear.
        click.UsageError: the list lacks a column that an option names.
    """
    if _CATALOG_NAME.fullmatch(text) and not Path(text).exists():
        names = catalog_names(store)
        if text in names:
            return CatalogArg(text, text)
        raise StoreError(
            f"{text!r} is neither a file nor a catalog of {store.url}; catalogs: "
            f"{', '.join(names) or 'none'}"
        )
    try:
        source, fields, rows = _inspect_list(text, side, options)
    except SourceError as error:
        own = {"id": f"--{side}-id", "url": f"--{side}-url"}
        raise SourceError(in_shell_words(str(error), own)) from error
    loader = find_loader(options.loader) if options.loader else None
    name = _list_name(text, options)
    settings = CatalogSettings(
        name=name, source=source, shards=shards_for(rows), encoder=encoder, download=download
    )
    return CatalogArg(name, without_secrets(text), settings, loader, fields)


def _list_name(text: str, options: ListOptions) -> str:
    """The file's name and a digest of its path and loader: unique, and the same in every run."""
    path = text if "://" in text else str(Path(text).expanduser().resolve())
    digest = hashlib.sha256(f"{path}\n{options.loader or ''}".encode()).hexdigest()[:8]
    stem = name_from_path(text)
    readable = stem[:40] if stem[:1].isalpha() else f"list_{stem[:35]}".rstrip("_")
    return f"{readable}_{digest}"


def name_from_path(path: str) -> str:
    """The name of a file or folder in lower case, digits and underscores, without suffixes."""
    stem = Path(path.rstrip("/")).name.split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "_", stem).strip("_")


def source_lines(id_column: str, url_column: str, notices: Iterable[str]) -> list[str]:
    """What was recognized in a list, for the terminal."""
    ids = "by their URL or path" if id_column == url_column else f"ids from {id_column!r}"
    return [f"images from column {url_column!r}, {ids}", *notices]


def _inspect_list(
    text: str, side: Side, options: ListOptions
) -> tuple[SourceSettings, list[str], int]:
    """How to read a list, its columns for the result, and the number of its valid rows."""
    position = SIDES.index(side)
    source_values = {"root": options.source.get("root")} if Path(text).is_dir() else options.source
    settings = parse_settings(SourceSettings, path=text, **source_values)
    source = open_source(settings, Path.cwd())
    raw = read_source(source)
    frame = raw.frame()
    names = [name for name in frame.columns if name not in (FILE, LINE)]
    fields = list(options.columns or names)
    given_columns = {"id": options.id_columns[position], "url": options.url_columns[position]}
    named = [("--columns", name) for name in fields]
    named += [pair for given in given_columns.values() for pair in given.items()]
    for option, column in named:
        if names and column not in names:
            listed = ", ".join(map(repr, names))
            raise click.UsageError(
                f"{option}: {settings.location} has no column {column!r}; it has {listed}"
            )
    columns = {key: column for key, given in given_columns.items() for column in given.values()}
    settings = parse_settings(SourceSettings, **settings.model_dump(exclude_unset=True) | columns)
    if not names and not raw.rejects:
        raise SourceError(f"{settings.location} holds no row")
    # The result's columns are the candidates, and those that options name.
    candidates = [FILE, LINE, *dict.fromkeys([*fields, *columns.values()])]
    chosen = choose_columns(frame.select(candidates) if names else frame, settings)
    values = settings.model_dump(exclude_unset=True) | {"id": chosen.id, "url": chosen.url}
    if names:
        values["root"] = settings.root or _common_root(frame[chosen.url])
    settings = parse_settings(SourceSettings, **values)
    validated = validate_rows(raw, replace(source, settings=settings))
    if not validated.rows.height:
        raise SourceError(no_rows_message(validated, source))
    return settings, fields, validated.rows.height


def _common_root(urls: pl.Series) -> str | None:
    """The root folder when every local path is absolute, else None: the list's own folder."""
    return "/" if absolute_paths(urls) else None


def absolute_paths(urls: pl.Series) -> list[str]:
    """The local paths of a list if all of them are absolute, else none."""
    texts = urls.cast(pl.String).drop_nulls().str.strip_chars()
    paths = texts.filter(~texts.str.contains(r"://|^//|^(?i)data:|^sha256:"))
    return paths.to_list() if paths.str.starts_with("/").all() else []
