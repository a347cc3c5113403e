"""Charts of results: contact sheets of pairs, neighbors and groups, histograms, heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.plot import heat_map
from imgsim_assets.images.sheet import Cell, contact_sheet
from imgsim_assets.images.small_chart import MAX_BINS, small_histogram
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.orientations import best_cosine_matrix
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_PAIRS_PER_ROW = 4


def match_sheet(store: Store, matches: pl.DataFrame, pairs: int = 12) -> bytes:
    """The most similar pairs, then those nearest to the threshold."""
    ordered = matches.sort(["similarity", "left_id", "right_id"], descending=[True, False, False])
    half = pairs // 2
    shown = (
        ordered if ordered.height <= pairs else pl.concat([ordered.head(half), ordered.tail(half)])
    )
    cells = []
    for row in shown.iter_rows(named=True):
        cells.append(Cell(thumbnail(store, row["left_sha256"]), row["left_id"]))
        caption = f"{row['similarity']:.3f}  {row['right_id']}"
        cells.append(Cell(thumbnail(store, row["right_sha256"]), caption))
    width = 2 * _PAIRS_PER_ROW
    return contact_sheet([cells[at : at + width] for at in range(0, len(cells), width)], group=2)


def graph_sheet(store: Store, edges: pl.DataFrame, items: int = 5, neighbors: int = 6) -> bytes:
    """Some items of the whole catalog, each followed by its nearest neighbors."""
    sources = edges["src_id"].unique(maintain_order=True)
    step = max(1, len(sources) // items)
    rows = []
    for source in sources.gather_every(step).head(items).to_list():
        nearest = edges.filter(pl.col("src_id") == source).head(neighbors)
        row = [Cell(thumbnail(store, nearest["src_sha256"][0]), source)]
        for edge in nearest.iter_rows(named=True):
            caption = f"{edge['similarity']:.3f}  {edge['dst_id']}"
            row.append(Cell(thumbnail(store, edge["dst_sha256"]), caption))
        rows.append(row)
    return contact_sheet(rows)


def group_sheet(store: Store, groups: pl.DataFrame, rows: int = 6, members: int = 8) -> bytes:
    """The largest groups, each with its canonical item in front and its most different last."""
    largest = (
        groups.unique("group_id").sort(["size", "group_id"], descending=[True, False]).head(rows)
    )
    sheet = []
    for group in largest["group_id"].to_list():
        group_rows = groups.filter(pl.col("group_id") == group).sort(
            ["is_canonical", "similarity", "id"], descending=[True, True, False]
        )
        shown = (
            group_rows
            if group_rows.height <= members
            else pl.concat([group_rows.head(members - 1), group_rows.tail(1)])
        )
        sheet.append(
            [
                Cell(thumbnail(store, row["sha256"]), f"{row['similarity']:.3f}  {_caption(row)}")
                for row in shown.iter_rows(named=True)
            ]
        )
    return contact_sheet(sheet)


def _caption(row: Mapping[str, Any]) -> str:
    """The item's id, with its catalog where there are several."""
    return f"{row['catalog']}/{row['id']}" if "catalog" in row else str(row["id"])


def similarity_heat_map(left: Items, right: Items, threshold: float) -> str:
    """All cosines of the images of a few left and right items, as SVG."""
    return heat_map(
        best_cosine_matrix(left, right).tolist(),
        *(_image_labels(items.upright) for items in (left, right)),
        title="similarity of every pair",
        mark=threshold,
    )


def _image_labels(items: Items) -> list[str]:
    """The id of each image's item, with the number of the image where items have several."""
    if items.max_images == 1:
        return items.keys["id"].to_list()
    return items.keys.select(pl.format("{} image {}", "id", "image")).to_series().to_list()


def similarity_histogram(
    similarity: pl.Series, threshold: float | None, candidates: pl.Series
) -> str:
    """The distribution of the similarities of pairs, and of candidates below the threshold."""
    values = np.concatenate([similarity.to_numpy(), candidates.to_numpy()])
    low = min(float(values.min(initial=1.0)), threshold if threshold is not None else 1.0)
    low = float(np.floor(low * 20) / 20) if low < 1 else 0.95
    counts, _ = np.histogram(values, bins=MAX_BINS, range=(low, 1.0))
    title = counted(len(similarity), "pair")
    if len(candidates):
        title += f", {len(candidates):,} below"
    return small_histogram(counts.tolist(), low, 1.0, title=title, cutoff=threshold)


def thumbnail(store: Store, sha256: str) -> Image.Image | None:
    """The image at 192 px at most; None when its bytes are damaged, which checks report."""
    try:
        image = decode(store.blobs.get(sha256), accept_truncated=True)
    except (CorruptFileError, ImageError):
        return None
    image.thumbnail((192, 192))
    return image
