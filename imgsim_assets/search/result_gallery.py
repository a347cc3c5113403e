"""Galleries of query results and match tables: images beside their neighbors.

A long gallery shows its first rows and says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.gallery_page import numbered_images, write_page
from imgsim_assets.search.image_ref import ImageRef
from imgsim_assets.search.thumbnails import Thumbnails
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from imgsim_assets.search.dataset import Dataset
    from imgsim_assets.search.references import References

_MAX_QUERIES = 200
_MATCH_COLUMNS = frozenset(["left_id", "right_id", "similarity", "left_sha256", "right_sha256"])


@dataclass(frozen=True)
class ResultImages:
    """The images of items, by label as text and number."""

    by_label: Mapping[str, Mapping[int, ImageRef | None]]

    @classmethod
    def of(cls, items: References | Dataset) -> ResultImages:
        """The images of a model's items, or of a dataset."""
        by_label: dict[str, dict[int, ImageRef | None]] = {str(item): {} for item in items.labels}
        names = map(str, items.labels.gather(items.rows.item))
        numbers = items.rows.image.tolist()
        for name, number, image in zip(names, numbers, items.optional_images, strict=True):
            by_label[name][number] = image
        return cls(by_label)

    def numbers(self, label: str) -> list[int]:
        """The numbers of an item's images; 0 for an unknown item."""
        return list(self.by_label.get(label, {0: None}))

    def select(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], ImageRef | None]:
        """The images of labels and numbers; None for an unknown one."""
        return {(label, number): self.by_label.get(label, {}).get(number) for label, number in keys}


def write_result(
    path: str | os.PathLike[str],
    result: pl.DataFrame,
    query_images: ResultImages,
    reference_images: ResultImages,
    *,
    title: str,
) -> Path:
    """Write the images of each query beside the nearest image of each of its neighbors.

    At most 200 queries are shown.
    """
    missing = {"query_label", "reference_label", "distance"} - set(result.columns)
    if missing:
        raise SettingsError(f"result: it has no column {min(missing)!r}; give the result of query")
    labels = result["query_label"].unique(maintain_order=True)
    shown = result.filter(pl.col("query_label").is_in(labels.head(_MAX_QUERIES).implode()))
    pairs = [_Pair.of(row) for row in shown.iter_rows(named=True)]
    thumbnails = Thumbnails()
    queries = dict.fromkeys(pair.query for pair in pairs)
    query_numbers = thumbnails.add(
        query_images.select((label, n) for label in queries for n in query_images.numbers(label))
    )
    reference_numbers = thumbnails.add(
        reference_images.select(sorted({(pair.reference, pair.reference_image) for pair in pairs}))
    )
    rows: dict[str, dict[str, Any]] = {
        label: {
            "label": label,
            "images": numbered_images(
                [(n, query_numbers[label, n]) for n in query_images.numbers(label)]
            ),
            "neighbors": [],
        }
        for label in queries
    }
    for pair in pairs:
        neighbor = {
            "label": pair.reference,
            "images": [
                {
                    "image": reference_numbers[pair.reference, pair.reference_image],
                    "note": pair.note(query_images, reference_images),
                }
            ],
            "distance": pair.distance,
            "orientation": pair.orientation,
        }
        rows[pair.query]["neighbors"].append(neighbor)
    limit = f", the first {_MAX_QUERIES} of {len(labels)} shown"
    subtitle = f"{len(labels)} queries{limit if len(labels) > _MAX_QUERIES else ''}"
    return write_page(path, title, subtitle, list(rows.values()), thumbnails, result["distance"])


@dataclass(frozen=True)
class _Pair:
    """A row of the result of a query."""

    query: str
    query_image: int
    reference: str
    reference_image: int
    distance: float
    orientation: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _Pair:
        """A row; one without numbers of images is about image 0."""
        return cls(
            str(row["query_label"]),
            row.get("query_image", 0),
            str(row["reference_label"]),
            row.get("reference_image", 0),
            row["distance"],
            row.get("orientation"),
        )

    def note(self, queries: ResultImages, references: ResultImages) -> str:
        """The numbers of the nearest images, where an item has several."""
        notes = []
        if self.reference_image or len(references.numbers(self.reference)) > 1:
            notes.append(f"image {self.reference_image}")
        if self.query_image or len(queries.numbers(self.query)) > 1:
            notes.append(f"nearest to image {self.query_image}")
        return ", ".join(notes)


def is_match_table(frame: Any) -> bool:
    """Whether a dataset is a frame with the columns of a match table."""
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return False
    return set(frame.collect_schema().names()) >= _MATCH_COLUMNS


def write_matches(
    path: str | os.PathLike[str],
    matches: pl.DataFrame | pl.LazyFrame,
    store: Store,
    *,
    title: str,
) -> Path:
    """Write the images of a match table, which the store holds, beside each other."""
    rows = matches.lazy().collect()
    # Match tables of earlier versions are about image 0 of each item.
    numbers = [
        pl.lit(0, pl.Int32).alias(name)
        for name in ("left_image", "right_image")
        if name not in rows.columns
    ]
    rows = rows.with_columns(numbers)
    result = rows.select(
        query_label="left_id",
        query_image="left_image",
        reference_label="right_id",
        reference_image="right_image",
        distance=(2 - 2 * pl.col("similarity").clip(-1, 1)).sqrt(),
    )
    left, right = (_images_of(rows, side, store) for side in ("left", "right"))
    return write_result(path, result, left, right, title=title)


def _images_of(rows: pl.DataFrame, side: str, store: Store) -> ResultImages:
    """The images of one side that are in a match table."""
    by_label: dict[str, dict[int, ImageRef | None]] = {}
    keys = rows.select(f"{side}_id", f"{side}_image", f"{side}_sha256").unique()
    for label, number, sha256 in keys.sort(keys.columns).iter_rows():
        image = ImageRef(label, partial(store.blobs.get, sha256))
        by_label.setdefault(label, {})[number] = image
    return ResultImages(by_label)
