"""The operands of `imgsim match` and `groups`: lists of images, and catalogs in the store."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import click
import polars as pl

from imgsim_assets.catalog.columns import choose_columns, further_images_notices, quoted
from imgsim_assets.catalog.image_rows import OTHER_URLS, image_rows
from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings, without_secrets
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.catalog.validation import no_rows_message, validate_rows
from imgsim_assets.cli.list_options import Columns, ListOptions
from imgsim_assets.cli.option_names import in_shell_words
from imgsim_assets.cli.options import parse_settings
from imgsim_assets.download.files.image_folder import plain_path
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import SourceError, StoreError, in_home
from imgsim_assets.gallery.document import ItemColumns
from imgsim_assets.pipeline.loader import Loader, find_loader
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.shards import shards_for
from imgsim_assets.pipeline.status import catalog_names
from imgsim_assets.storage.store import Store

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = get_args(Side)
# The image in the result, where it may come from several columns.
_IMAGE_FIELD = "url"
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
        notices: what was recognized in a list, beside the notices of its items.
        has_numbers: whether the result has the number of an image within its item.
    """

    name: str
    title: str
    settings: CatalogSettings | None = None
    loader: Loader | None = None
    fields: Sequence[str] | None = None
    notices: Sequence[str] = ()
    has_numbers: bool = True

    def item_columns(self, store: Store) -> ItemColumns:
        """The fields of every image under the source's column names.

        The image's URL is under the name of its column; of several columns, under `url`. Where
        items may have several images and `fields` does not choose, `image_number` is the last.
        """
        table = items_table(store, self.name)
        commit = table.latest()
        if commit is None:
            raise StoreError(
                f"{self.name}/items has no version yet; run the catalog first: imgsim run "
                f"{self.name}"
            )
        items = table.read(commit)
        urls = url_columns(commit.properties)
        url = urls[0] if len(urls) == 1 else _IMAGE_FIELD
        fields = [url if name in urls else name for name in self.fields or ()]
        images = image_rows(items)
        carried = items.drop("url", OTHER_URLS, strict=False)
        rows = images.drop("image").join(carried, on="id", how="left", maintain_order="left")
        has_numbers = self.has_numbers and OTHER_URLS in items.columns
        names = _source_names(rows.columns, commit.properties["id_column"], urls, url, fields)
        fields = list(dict.fromkeys(fields or names.values()))
        by_source = {source: column for column, source in reversed(names.items())}
        columns = rows.select(pl.col(by_source[name]).alias(name) for name in fields)
        if has_numbers and "image_number" not in fields:
            columns = columns.with_columns(images["image"].alias("image_number"))
        return ItemColumns(images.select("id", "image"), columns)


def declared_encoders(
    store: Store, args: Iterable[CatalogArg], encoder: EncoderSettings
) -> dict[str, EncoderSettings]:
    """The encoder of each catalog of the operands that the options of the command name."""
    declared = {}
    for arg in args:
        commit = embeddings_table(store, arg.name).latest()
        if commit is None:
            continue
        # The first run has decided an automatic precision.
        recorded = encoder_from_commit(commit).model_copy(update={"precision": encoder.precision})
        if recorded.identity == encoder.identity:
            declared[arg.name] = encoder
    return declared


def url_columns(properties: Mapping[str, Any]) -> list[str]:
    """The source's columns of images, from the properties of an items table."""
    # The single one in tables of earlier snapshots.
    return list(properties.get("url_columns") or [properties["url_column"]])


def _source_names(
    columns: Sequence[str], id_column: str, urls: Sequence[str], url: str, fields: Sequence[str]
) -> dict[str, str]:
    """The source's name of each column of an items table."""
    extra = [name for name in fields if name not in (id_column, url)]
    # Where the image is the id, the result shows the image.
    names = {"url": url} if id_column in urls else {"id": id_column, "url": url}
    for column in columns[2:]:
        # An extra column that had the name of one of the table's own has a prefix.
        source = column
        while source.startswith("source_") and source not in extra:
            source = source.removeprefix("source_")
        names[column] = source if source in extra or source in ("id", "url") else column
    return names


def resolve_operands(
    operands: Iterable[tuple[str, Side | None]],
    store: Store,
    options: ListOptions,
    encoder: EncoderSettings,
    download: DownloadSettings,
) -> list[CatalogArg]:
    """The catalogs that operands name, each with its side; see `_resolve`.

    Raises:
        SourceError: has the problems of all lists.
        click.UsageError: lists are to be embedded by another encoder than a catalog of the store.
    """
    resolved, problems = [], []
    for text, side in operands:
        try:
            resolved.append(_resolve(text, side, store, options, encoder, download))
        except SourceError as error:
            problems.append(str(error))
    if problems:
        raise SourceError("\n".join(problems))
    lists = [arg for arg in resolved if arg.settings is not None]
    for arg in resolved if lists else ():
        if arg.settings is None:
            _require_encoder_of_lists(store, arg.name, lists[0].title, encoder)
    return resolved


def _resolve(
    text: str,
    side: Side | None,
    store: Store,
    options: ListOptions,
    encoder: EncoderSettings,
    download: DownloadSettings,
) -> CatalogArg:
    """The catalog that an operand names: one of the store, else that of a list or folder.

    `side` is None where a command reads all its lists alike.

    Raises:
        StoreError: `text` is neither a file nor a catalog of the store.
        SourceError: the list cannot be read or has no valid row, or its columns are not clear.
        click.UsageError: the list lacks a column that an option names, or the catalog has vectors
            of another encoder than the option --encoder.
    """
    if _CATALOG_NAME.fullmatch(text):
        names = catalog_names(store)
        if text in names:
            _require_own_encoder(store, text, encoder)
            return CatalogArg(text, text)
        if not Path(text).exists():
            raise StoreError(
                f"{text!r} is neither a file nor a catalog of {store.url}; catalogs: "
                f"{', '.join(names) or 'none'}"
            )
    try:
        found = _inspect_list(text, side, options)
    except SourceError as error:
        own = {key: f"--{side}-{key}" if side else f"--{key}" for key in ("id", "url")}
        raise SourceError(in_shell_words(str(error), own)) from error
    loader = find_loader(options.loader) if options.loader else None
    name = _list_name(text, options)
    settings = CatalogSettings(
        name=name,
        source=found.settings,
        shards=shards_for(found.rows),
        encoder=encoder,
        download=download,
    )
    title = without_secrets(text)
    has_numbers = not options.columns
    return CatalogArg(name, title, settings, loader, found.fields, found.notices, has_numbers)


def _require_encoder_of_lists(
    store: Store, name: str, a_list: str, encoder: EncoderSettings
) -> None:
    """Refuse to embed lists that cannot be compared with a catalog of the store."""
    commit = embeddings_table(store, name).latest()
    if commit is None:
        return
    # The first run has decided an automatic precision.
    recorded = encoder_from_commit(commit)
    if recorded.model_copy(update={"precision": encoder.precision}).identity == encoder.identity:
        return
    values = {
        "--encoder": recorded.factory or recorded.name,
        "--encoder-version": recorded.version,
        "--weights": recorded.weights,
    }
    options = " ".join(f"{option} {shlex.quote(text)}" for option, text in values.items() if text)
    by_options = EncoderSettings(
        name=recorded.name,
        factory=recorded.factory,
        version=recorded.version,
        weights=recorded.weights,
        precision=recorded.precision,
    )
    fix = f"give {options}"
    if by_options.identity != recorded.identity:
        fix = f"declare {a_list} as a catalog with that encoder (imgsim add-catalog), and name it"
    raise click.UsageError(
        f"--encoder: {name} has vectors of {recorded.describe()}, and {a_list} would be embedded "
        f"by {encoder.describe()}; {fix}"
    )


def _require_own_encoder(store: Store, name: str, encoder: EncoderSettings) -> None:
    """Refuse an option --encoder that is not the encoder of a catalog of the store."""
    source = click.get_current_context().get_parameter_source("encoder")
    commit = embeddings_table(store, name).latest()
    if source is click.core.ParameterSource.DEFAULT or commit is None:
        return
    recorded = encoder_from_commit(commit)
    # A factory may have any name in YAML.
    is_same_name = encoder.factory is not None or encoder.name == recorded.name
    if encoder.factory != recorded.factory or not is_same_name:
        raise click.UsageError(
            f"--encoder: {name} has vectors of {recorded.describe()}, and this command embeds "
            "lists only; remove the option, give the list in place of the catalog, or change the "
            "encoder where the catalog is declared"
        )


def _list_name(text: str, options: ListOptions) -> str:
    """The file's name and a digest of its path and loader: unique, and the same in every run."""
    path = text if "://" in text else str(in_home(text).resolve())
    digest = hashlib.sha256(f"{path}\n{options.loader or ''}".encode()).hexdigest()[:8]
    stem = name_from_path(text)
    readable = stem[:40] if stem[:1].isalpha() else f"list_{stem[:35]}".rstrip("_")
    return f"{readable}_{digest}"


def name_from_path(path: str) -> str:
    """The name of a file or folder in lower case, digits and underscores, without suffixes."""
    stem = Path(path.rstrip("/")).name.split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "_", stem).strip("_")


def source_lines(id_column: str, urls: Sequence[str], notices: Iterable[str]) -> list[str]:
    """What was recognized in a list, for the terminal."""
    ids = "by their URL or path" if id_column in urls else f"ids from {id_column!r}"
    columns = "column" if len(urls) == 1 else "columns"
    return [f"images from {columns} {quoted(urls)}, {ids}", *notices]


class _Inspected(NamedTuple):
    """How to read a list, its columns for the result, its valid rows, and what was recognized."""

    settings: SourceSettings
    fields: list[str]
    rows: int
    notices: list[str]


def _inspect_list(text: str, side: Side | None, options: ListOptions) -> _Inspected:
    position = SIDES.index(side) if side else 0
    source_values = {"root": options.source.get("root")} if Path(text).is_dir() else options.source
    settings = parse_settings(SourceSettings, path=text, **source_values)
    source = open_source(settings, Path.cwd())
    raw = read_source(source)
    frame = raw.frame()
    names = [name for name in frame.columns if name not in (FILE, LINE)]
    fields = list(options.columns or names)
    given = {"id": options.id_columns[position], "url": options.url_columns[position]}
    named = [("--columns", name) for name in fields]
    named += [
        (option, name)
        for by_option in given.values()
        for option, columns in by_option.items()
        for name in _tuple(columns)
    ]
    if names:
        _require_columns(named, names, settings)
    settings = _with(
        settings, {key: next(iter(columns.values())) for key, columns in given.items() if columns}
    )
    if not names and not raw.rejects:
        raise SourceError(f"{settings.location} holds no row")
    # The result's columns are the candidates, and those that options name.
    candidates = [FILE, LINE, *dict.fromkeys(name for _, name in named)]
    frame = frame.select(candidates) if names else frame
    chosen = choose_columns(frame, settings)
    notices = [] if settings.url else further_images_notices(frame, chosen.urls[0])
    urls = chosen.urls if len(chosen.urls) > 1 else chosen.urls[0]
    settings = _with(settings, {"id": chosen.id, "url": urls})
    validated = validate_rows(raw, replace(source, settings=settings))
    if not validated.rows.height:
        raise SourceError(no_rows_message(validated, source))
    if names and settings.root is None:
        settings = _with(settings, {"root": _common_root(image_rows(validated.rows)["url"])})
    return _Inspected(settings, fields, validated.rows.height, notices)


def _require_columns(
    named: Iterable[tuple[str, str]], names: Sequence[str], settings: SourceSettings
) -> None:
    """Refuse an option that names a column which the list does not have."""
    for option, column in named:
        if column not in names:
            raise click.UsageError(
                f"{option}: {settings.location} has no column {column!r}; it has {quoted(names)}"
            )


def _with(settings: SourceSettings, values: Mapping[str, Any]) -> SourceSettings:
    return parse_settings(SourceSettings, **settings.model_dump(exclude_unset=True) | dict(values))


def _tuple(columns: Columns) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _common_root(urls: pl.Series) -> str | None:
    """The root folder when every local path is absolute, else None: the list's own folder."""
    return "/" if absolute_paths(urls) else None


def absolute_paths(urls: pl.Series) -> list[str]:
    """The local paths of a list if all of them are absolute, else none; file URLs are paths."""
    texts = urls.cast(pl.String).drop_nulls().str.strip_chars()
    is_elsewhere = texts.str.contains(r"://|^//|^(?i)data:|^sha256:")
    is_file_url = texts.str.contains(r"^(?i)file:///")
    paths = list(map(plain_path, texts.filter(~is_elsewhere | is_file_url)))
    return paths if all(path.startswith("/") for path in paths) else []
