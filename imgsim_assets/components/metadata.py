"""What the Dagster UI shows of a table: schema, counts, links, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.storage.store import Store

_CARRIED = "carried from the source"
_MEANING = {
    "attempts": "failed attempts in a row, over runs",
    "bridges": "links of the group without which it would fall apart",
    "bytes": "size of the image file",
    "checked_at": "when the server last gave or confirmed this image",
    "count": "pairs that were compared",
    "detail": "what happened, in words",
    "distance": "Euclidean distance of the unit vectors, sqrt(2 - 2 similarity)",
    "dst_id": "the neighbour",
    "edit": "how the copies were made, or 'different pictures' for pairs of different images",
    "etag": "version the server gave, or size and time of a local file",
    "fetched_at": "when this outcome was reached",
    "file": "file of the source",
    "format": "image format, by its content",
    "group_id": "the group, named by its representative",
    "height": "pixels, before rotation by EXIF",
    "id": "the item",
    "is_representative": "whether the item stands for its group",
    "last_modified": "as the server said",
    "left_id": "item of the left catalogue",
    "left_sha256": "image of the left item",
    "line": "line (or row) of the file, from 1",
    "mean_similarity": "over all pairs of the group's items",
    "min_similarity": "over all pairs of the group's items",
    "next_retry_at": "when a transient failure is tried again",
    "number": "the item's number inside the FAISS file",
    "rank": "1 for the most similar",
    "refresh_failed": "why a good image could not be asked for again; it is kept",
    "reason": "why the row is left out",
    "right_id": "item of the right catalogue",
    "right_sha256": "image of the right item",
    "share": "of the pairs that reach the threshold",
    "sha256": "hash of the image's bytes",
    "similarity": "cosine of the two vectors",
    "size": "items in the group",
    "src_id": "the item whose neighbours these are",
    "status": "ok, or what failed",
    "threshold": "least cosine",
    "text": "the row as it stands in the file",
    "transient": "whether a later run tries again by itself",
    "url": "where the image is fetched from",
    "width": "pixels, before rotation by EXIF",
}


def table_schema(columns: Mapping[str, Any]) -> dg.TableSchema:
    """A Polars schema as Dagster shows it, with what each column means."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, _kind(kind), description=_MEANING.get(name, _CARRIED))
            for name, kind in columns.items()
        ]
    )


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
    """A picture that travels inside the metadata."""
    return _image("image/jpeg", data, alt)


def svg(drawing: str, alt: str) -> dg.MetadataValue:
    """A chart that travels inside the metadata."""
    return _image("image/svg+xml", drawing.encode(), alt)


def _image(kind: str, data: bytes, alt: str) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![{alt}](data:{kind};base64,{base64.b64encode(data).decode()})")
