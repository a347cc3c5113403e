"""The items of a catalog with their images, as the pages that browse it need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.download.status import OK

if TYPE_CHECKING:
    from imgsim_assets.service.view import View

# The status of an item or image that no run has requested or embedded yet.
PENDING = "pending"
# Columns of the items table that the source does not carry.
RESERVED = ("id", "url", OTHER_URLS)
_KEY = ["id", "image"]
_IMAGES_SCHEMA = {
    "id": pl.String,
    "image": pl.Int32,
    "status": pl.String,
    "sha256": pl.String,
}


@dataclass(frozen=True)
class CatalogRows:
    """One version of a catalog.

    Attributes:
        name: the catalog.
        items: `<name>/items`, sorted by id: id, url, other_urls where there are any, and the
            carried columns.
        images: id, image, status and sha256 of every image in the ledger, sorted by id and image.
            The status is that of the download, or of the embedding where the image was fetched.
        overview: a row for each row of `items`: id, status (ok if an image of the item is ok, else
            that of its first image), images (their number), and sha256 of the first fetched image,
            null without one.
    """

    name: str
    items: pl.DataFrame
    images: pl.DataFrame
    overview: pl.DataFrame

    @property
    def carried(self) -> list[str]:
        """The columns that the source carries, in its order."""
        return [column for column in self.items.columns if column not in RESERVED]

    @property
    def status_counts(self) -> dict[str, int]:
        """How many items have each status, the most frequent first."""
        counts = self.overview["status"].value_counts()
        return dict(counts.sort(["count", "status"], descending=[True, False]).iter_rows())

    def images_of(self, item_id: str) -> pl.DataFrame:
        """The rows of `images` of one item."""
        first = int(self.images["id"].search_sorted(item_id, "left"))
        last = int(self.images["id"].search_sorted(item_id, "right"))
        return self.images.slice(first, last - first)

    def position(self, item_id: str) -> int | None:
        """The position of an item in `items` and `overview`; None where it is in neither."""
        position = int(self.items["id"].search_sorted(item_id, "left"))
        if position == self.items.height or self.items["id"][position] != item_id:
            return None
        return position


def read_catalog(view: View, name: str) -> CatalogRows:
    """The version of a catalog that a view has pinned. What was read stays in the view's cache.

    Raises:
        NotFoundError: there is no such catalog.
    """
    items = view.commit(f"{name}/items")

    def cached(kind: str, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        return view.cache.get((kind, name, _version(view, name)), read)

    table = view.store.table(items.table, key="id")
    rows = cached("browse items", lambda: table.read(items).sort("id"))
    images = cached("browse images", lambda: _images(view, name))
    return CatalogRows(
        name, rows, images, cached("browse overview", lambda: overview_of(rows, images))
    )


def read_shared_images(view: View, name: str) -> pl.DataFrame:
    """`shared_images` of a catalog, kept in the view's cache."""
    key = ("shared images", name, _version(view, name))
    return view.cache.get(key, lambda: shared_images(read_catalog(view, name).images))


def overview_of(items: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """The `overview` of the items and images of a catalog."""
    is_ok = pl.col("status") == OK
    by_item = images.group_by("id", maintain_order=True).agg(
        pl.when(is_ok.any()).then(pl.lit(OK)).otherwise(pl.col("status").first()).alias("status"),
        pl.len().cast(pl.Int32).alias("images"),
        pl.col("sha256").drop_nulls().first(),
    )
    joined = items.select("id").join(by_item, on="id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("status").fill_null(PENDING), pl.col("images").fill_null(0))


def shared_images(images: pl.DataFrame) -> pl.DataFrame:
    """The images that several items have, the most shared first.

    Returns:
        sha256, items (how many have it), and id and image where it is first.
    """
    fetched = images.filter(pl.col("sha256").is_not_null())
    return (
        fetched.unique(["id", "sha256"], keep="first", maintain_order=True)
        .group_by("sha256", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("items"), pl.col(_KEY).first())
        .filter(pl.col("items") > 1)
        .sort(["items", "sha256"], descending=[True, False])
    )


def _version(view: View, name: str) -> tuple[str, ...]:
    commits = (view.commits.get(f"{name}/{table}") for table in ("items", "images", "embeddings"))
    return tuple(commit.commit_id if commit is not None else "" for commit in commits)


def _images(view: View, name: str) -> pl.DataFrame:
    fetched = _read_images(view, f"{name}/images")
    embedded = _read_images(view, f"{name}/embeddings").rename({"status": "embedding"})
    both = fetched.join(embedded, on=[*_KEY, "sha256"], how="left")
    # An image that has changed since it was embedded waits for the next run.
    embedding = pl.col("embedding").fill_null(PENDING)
    status = pl.when(pl.col("status") == OK).then(embedding).otherwise("status")
    return both.select(*_KEY, status.alias("status"), "sha256").sort(_KEY)


def _read_images(view: View, name: str) -> pl.DataFrame:
    """The columns of a ledger, or of embeddings, that every item is browsed by."""
    rows = pl.DataFrame(schema=_IMAGES_SCHEMA)
    commit = view.commits.get(name)
    if commit is not None:
        table = view.store.table(name, key=commit.key)
        read = table.read(commit, columns=list(_IMAGES_SCHEMA))
        rows = pl.concat([rows, read], how="diagonal_relaxed")
    # Tables of earlier versions have one image per item.
    return rows.with_columns(pl.col("image").fill_null(0))
