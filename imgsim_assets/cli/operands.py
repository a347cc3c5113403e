"""A side of a match: a list of images somewhere, or a catalog that the store knows."""

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
from imgsim_assets.cli.options import parse_settings
from imgsim_assets.errors import SourceError, StoreError
from imgsim_assets.pipeline.catalog import CatalogJob, shards_for
from imgsim_assets.pipeline.loader import find_loader
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.storage.store import Store

_STORED = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class ListOptions:
    """How lists are read, from the options of the command line."""

    columns: tuple[str, ...] = ()
    id: str | None = None
    url: str | None = None
    delimiter: str | None = None
    header: bool = True
    root: str | None = None
    loader: str | None = None


@dataclass(frozen=True)
class CatalogArg:
    """A catalog under its name in the store; `job` is None for one that is taken as it is.

    `fields` are the source's columns that results carry, in their order.
    """

    name: str
    title: str
    job: CatalogJob | None
    fields: Sequence[str] | None = None

    def rows(self, store: Store) -> pl.DataFrame:
        """The catalog's id (as `__id`), and its fields under the source's names."""
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
    """What the source calls each column of a catalog table."""
    id_column, url_column = properties["id_column"], properties["url_column"]
    taken = {id_column, url_column}
    carried = [name for name in fields or () if name not in taken]
    plain = {column: column for column in columns[2:]}
    # A carried column that is called like one of ours was renamed.
    for column in columns[2:]:
        source = column
        while source.startswith("source_") and source not in carried:
            source = source.removeprefix("source_")
        if source in carried or source in ("id", "url"):
            plain[column] = source
    return {"id": id_column, "url": url_column, **plain}


def resolve_operand(
    text: str, store: Store, options: ListOptions, encoder: Any, download: Any
) -> CatalogArg:
    """What an argument names: a stored catalog, or a list that is read from now on."""
    if _STORED.fullmatch(text) and not Path(text).exists():
        if text in catalog_names(store):
            return CatalogArg(text, text, None)
        known = ", ".join(catalog_names(store)) or "none"
        raise StoreError(
            f"{text!r} is neither a file nor a catalog of {store.url}; catalogs: {known}"
        )
    source, fields, rows = _source(text, options)
    name = _name(text, options)
    loader = find_loader(options.loader) if options.loader else None
    job = CatalogJob(name, source, shards_for(rows), encoder, download, loader)
    return CatalogArg(name, text, job, fields)


def _name(text: str, options: ListOptions) -> str:
    """A name for a list: its file's, and a digest of where it lies and how it is loaded.

    The same list has the same name in every run, and no two lists share one.
    """
    place = text if "://" in text else str(Path(text).expanduser().resolve())
    stem = re.sub(r"[^a-z0-9]+", "_", Path(text.rstrip("/")).name.split(".")[0].lower()).strip("_")
    digest = hashlib.sha256(f"{place}\n{options.loader or ''}".encode()).hexdigest()[:8]
    readable = stem[:40] if stem[:1].isalpha() else f"list_{stem[:35]}".rstrip("_")
    return f"{readable}_{digest}"


def _source(text: str, options: ListOptions) -> tuple[SourceSettings, list[str], int]:
    """How a list is read: its settings, the fields that are carried, and its length."""
    delimiter = options.delimiter if not Path(text).is_dir() else None
    plain = parse_settings(
        SourceSettings,
        path=text,
        delimiter=delimiter,
        header=None if options.header else False,
        root=options.root,
    )
    source = open_source(plain, Path.cwd())
    raw = read_source(source).frame()
    names = [name for name in raw.columns if name not in (FILE, LINE)]
    if not names:
        raise SourceError(f"{text} holds no row")
    fields = _fields(text, names, options)
    url = options.url or (fields[-1] if options.columns or "url" not in fields else "url")
    chosen = {"id": options.id, "url": url}
    for key, column in chosen.items():
        if column is not None and column not in names:
            raise click.UsageError(
                f"--{key}: {text} has no column {column!r}; it has {_some(names)}"
            )
    if options.id is None and "id" not in names:
        chosen["id"] = url
    root = plain.root or _root(raw[url].cast(pl.String).drop_nulls().to_list())
    settings = parse_settings(
        SourceSettings, **plain.model_dump(exclude={"id", "url", "root"}), **chosen, root=root
    )
    return settings, fields, raw.height


def _fields(text: str, names: Sequence[str], options: ListOptions) -> list[str]:
    for column in options.columns:
        if column not in names:
            raise click.UsageError(
                f"--columns: {text} has no column {column!r}; it has {_some(names)}"
            )
    return list(options.columns or names)


def _root(urls: Sequence[str]) -> str | None:
    """The whole disk when every path is an absolute one; else the list's own folder."""
    paths = [url.strip() for url in urls if "://" not in url]
    return "/" if paths and all(path.startswith("/") for path in paths) else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
