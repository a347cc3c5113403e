"""The operands of `imgsim match`: lists of images, and catalogs in the store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl

from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.cli.options import ListOptions, parse_settings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SourceError, StoreError
from imgsim_assets.pipeline.loader import Loader, find_loader
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.shards import shards_for
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.storage.store import Store

_CATALOG_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class CatalogArg:
    """A catalog that an operand names.

    Attributes:
        name: the catalog's name in the store.
        title: the operand as it was typed.
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
    names = {"id": id_column, "url": url_column}
    for column in columns[2:]:
        # An extra column that had the name of one of the table's own has a prefix.
        source = column
        while source.startswith("source_") and source not in extra:
            source = source.removeprefix("source_")
        names[column] = source if source in extra or source in ("id", "url") else column
    return names


def resolve_operand(
    text: str,
    store: Store,
    options: ListOptions,
    encoder: EncoderSettings,
    download: DownloadSettings,
) -> CatalogArg:
    """The catalog that an operand names: one of the store, or that of a list or folder.

    Raises:
        StoreError: `text` is neither a file nor a catalog of the store.
        SourceError: the list cannot be read or has no row.
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
    source, fields, rows = _inspect_list(text, options)
    loader = find_loader(options.loader) if options.loader else None
    name = _list_name(text, options)
    settings = CatalogSettings(
        name=name, source=source, shards=shards_for(rows), encoder=encoder, download=download
    )
    return CatalogArg(name, text, settings, loader, fields)


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


def _inspect_list(text: str, options: ListOptions) -> tuple[SourceSettings, list[str], int]:
    """How to read a list, its columns for the result, and the number of its rows."""
    delimiter = options.delimiter if not Path(text).is_dir() else None
    settings = parse_settings(
        SourceSettings,
        path=text,
        delimiter=delimiter,
        header=False if options.no_header else None,
        root=options.root,
    )
    rows = read_source(open_source(settings, Path.cwd())).frame()
    names = [name for name in rows.columns if name not in (FILE, LINE)]
    if not names:
        raise SourceError(f"{text} holds no row")
    fields = list(options.columns or names)
    url = options.url or (fields[-1] if options.columns or "url" not in fields else "url")
    named = [("--columns", name) for name in fields] + [("--id", options.id), ("--url", url)]
    for option, column in named:
        if column is not None and column not in names:
            listed = ", ".join(map(repr, names))
            raise click.UsageError(f"{option}: {text} has no column {column!r}; it has {listed}")
    chosen = {
        "id": options.id or ("id" if "id" in names else url),
        "url": url,
        "root": settings.root or _common_root(rows[url]),
    }
    values = settings.model_dump(exclude=set(chosen)) | chosen
    return parse_settings(SourceSettings, **values), fields, rows.height


def _common_root(urls: pl.Series) -> str | None:
    """The root folder when every local path is absolute, else None: the list's own folder."""
    paths = [url.strip() for url in urls.cast(pl.String).drop_nulls() if "://" not in url]
    return "/" if paths and all(path.startswith("/") for path in paths) else None
