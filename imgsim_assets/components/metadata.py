"""Metadata of tables as the Dagster UI shows it: schema, counts, previews, images."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any, Protocol

import dagster as dg
import polars as pl
from PIL import Image

from imgsim_assets.components.columns import table_schema
from imgsim_assets.images.sheet import side_by_side
from imgsim_assets.service.page_paths import page_path
from imgsim_assets.storage.store import Store

# The environment variable with the URL of `imgsim serve`, as the browsers of people reach it.
SERVE_URL = "IMGSIM_SERVE_URL"
# Longer texts of a cell are truncated: metadata is stored in Dagster's event log.
_MAX_CELL = 200
# Characters of Markdown that Dagster shows without a click.
MAX_SHOWN = 1000
_THUMBNAIL_EDGES = (96, 72, 60, 48, 40, 32, 24)
_THUMBNAIL_QUALITIES = (40, 20, 5)
_LINKED_IMAGES = "_linked_images"
_KEPT_LINKED_IMAGES = 10


def schema_of(columns: Mapping[str, Any], carried: Collection[str] = ()) -> dg.TableSchema:
    """A Polars schema as Dagster's, with the meaning of each column; some may be carried."""
    return table_schema({name: _type_name(kind) for name, kind in columns.items()}, carried)


def _type_name(kind: Any) -> str:
    """The name of a column's type; of a Datetime with its time zone, without its resolution."""
    if isinstance(kind, pl.Datetime):
        return f"Datetime ({kind.time_zone})" if kind.time_zone else "Datetime"
    return str(kind)


class TableReport(Protocol):
    """What every stage reports of the table that it commits."""

    @property
    def version(self) -> int:
        """The version that is now the newest."""

    @property
    def changed(self) -> bool:
        """Whether this run committed it."""


def table_metadata(store: Store, name: str, report: TableReport, rows: int) -> dict[str, Any]:
    """The metadata that every table's materialization has; `rows` is its number of rows."""
    return {
        "dagster/row_count": rows,
        "dagster/uri": f"{store.url}/{name}",
        "version": report.version,
        "changed": report.changed,
        **_served_page(store, name, report.version),
    }


def _served_page(store: Store, name: str, version: int) -> dict[str, dg.MetadataValue]:
    """The link to the page of a table; none where no URL of `imgsim serve` is known."""
    base = os.environ.get(SERVE_URL, "").strip().rstrip("/")
    if not base:
        return {}
    catalogs = store.table(name).at(version).properties.get("catalogs", [])
    path = page_path(name, catalogs)
    if path is None:
        return {}
    key = "review_page" if path.startswith("/review/") else "explore_page"
    return {key: dg.MetadataValue.url(f"{base}{path}")}


def counts_table(counts: Mapping[str, int], column: str) -> dg.MetadataValue:
    """Counts by kind as a table, the largest first; `column` names the kinds."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return dg.MetadataValue.table(
        [dg.TableRecord({column: kind, "count": count}) for kind, count in ordered],
        schema=dg.TableSchema([dg.TableColumn(column, "string"), dg.TableColumn("count", "int")]),
    )


def preview(rows: pl.DataFrame, limit: int = 10) -> dg.MetadataValue:
    """The first rows as a table, in which Dagster shows text as text, and renders no Markdown."""
    records = [
        dg.TableRecord({name: _cell(value) for name, value in row.items()})
        for row in rows.head(limit).iter_rows(named=True)
    ]
    return dg.MetadataValue.table(records, schema=schema_of(rows.schema))


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    text = value.isoformat(" ", "seconds") if isinstance(value, datetime) else str(value)
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def svg(drawing: str, alt: str) -> dg.MetadataValue:
    """An SVG chart inside the metadata; Dagster shows a small one without a click."""
    return _image("image/svg+xml", drawing.encode(), alt)


def thumbnails(images: Sequence[Image.Image | None], alt: str) -> dg.MetadataValue | None:
    """Images side by side, shown by Dagster without a click; None without any."""
    shown = [image for image in images if image is not None]
    if not shown:
        return None
    for edge, quality in product(_THUMBNAIL_EDGES, _THUMBNAIL_QUALITIES):
        body = io.BytesIO()
        side_by_side(shown, edge).save(body, "WEBP", quality=quality)
        value = _image("image/webp", body.getvalue(), alt)
        if len(value.value) <= MAX_SHOWN:
            return value
    return None


def linked_image(
    store: Store, table: str, version: int, name: str, data: bytes
) -> dg.MetadataValue:
    """A large image, as the link to a file beside the tables of the store.

    The images of the newest versions of a table are kept.
    """
    folder = f"{_LINKED_IMAGES}/{table}"
    path = f"{folder}/{version:012d}-{name}"
    store.files.write(path, data)
    older = sorted(entry.name for entry in store.files.entries(folder) if not entry.is_folder)
    for entry in older[:-_KEPT_LINKED_IMAGES]:
        store.files.delete(f"{folder}/{entry}")
    local = store.files.local_path(path)
    url = local.resolve().as_uri() if local is not None else f"{store.url}/{path}"
    return dg.MetadataValue.url(url)


def last_metadata(context: dg.AssetExecutionContext) -> dict[str, Any]:
    """The metadata of the asset's last materialization."""
    event = context.instance.get_latest_materialization_event(context.asset_key)
    materialization = event.asset_materialization if event is not None else None
    return dict(materialization.metadata) if materialization is not None else {}


def _image(kind: str, data: bytes, alt: str) -> dg.MarkdownMetadataValue:
    encoded = base64.b64encode(data).decode()
    return dg.MetadataValue.md(f"![{alt}](data:{kind};base64,{encoded})")
