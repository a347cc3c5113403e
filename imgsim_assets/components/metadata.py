"""What the Dagster UI shows of a table: schema, counts, links, images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.columns import table_schema
from imgsim_assets.storage.store import Store


def schema_of(columns: Mapping[str, Any]) -> dg.TableSchema:
    """A Polars schema as Dagster shows it, with what each column means."""
    return table_schema({name: _kind(kind) for name, kind in columns.items()})


def _kind(kind: Any) -> str:
    """The name of a column's type, with the time zone but not the resolution of a time."""
    if isinstance(kind, pl.Datetime):
        return f"Datetime ({kind.time_zone})" if kind.time_zone else "Datetime"
    return str(kind)


def table_metadata(
    store: Store, name: str, version: int, rows: int, *, changed: bool
) -> dict[str, Any]:
    """The facts that every table's materialization carries."""
    return {
        "dagster/row_count": rows,
        "dagster/uri": f"{store.url}/{name}",
        "version": version,
        "changed": changed,
    }


def counted(counts: Mapping[str, int], what: str) -> dg.MetadataValue:
    """Counts by kind as a table, the largest first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return dg.MetadataValue.table(
        [dg.TableRecord({what: kind, "count": count}) for kind, count in ordered],
        schema=dg.TableSchema([dg.TableColumn(what, "string"), dg.TableColumn("count", "int")]),
    )


def preview(rows: pl.DataFrame, limit: int = 10) -> dg.MetadataValue:
    """The first rows as a Markdown table."""
    head = rows.head(limit)
    lines = ["| " + " | ".join(head.columns) + " |", "|" + " --- |" * head.width]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in head.iter_rows()]
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    text = f"{value:.5f}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def jpeg(data: bytes, alt: str) -> dg.MetadataValue:
    """An image that travels inside the metadata."""
    return _image("image/jpeg", data, alt)


def svg(drawing: str, alt: str) -> dg.MetadataValue:
    """A chart that travels inside the metadata."""
    return _image("image/svg+xml", drawing.encode(), alt)


def _image(kind: str, data: bytes, alt: str) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![{alt}](data:{kind};base64,{base64.b64encode(data).decode()})")
