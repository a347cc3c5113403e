"""The items of a catalog with their images, as the pages that browse it need them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# The status of an item or image that no run has requested or embedded yet.
PENDING = "pending"
# Columns of the items table that the source does not carry.
RESERVED = ("id", "url", OTHER_URLS)
# What the ledger is read for; the rest of it is read for one item at a time.
_LEDGER_COLUMNS = ["id", "image", "status", "sha256"]
_IMAGES_SCHEMA = {
    "id": pl.String,
    "image": pl.Int32,
    "status": pl.String,
    "sha256": pl.String,
}
_KEY = ["id", "image"]


@dataclass(frozen=True)
class CatalogRows:
    """One version of a catalog.

    Attributes:
        name: the catalog.
        items: `<name>/items`, sorted by id: id, url, other_urls where there are any, and the
            carried columns.
        images: id, image, status and sha256 of every image in the ledger, sorted by id and image.
            The status is that of the download, or of the embedding where the image was fetched.
    """

    name: str
    items: pl.DataFrame
    images: pl.DataFrame

    @property
    def carried(self) -> list[str]:
        """The columns that the source carries, in its order."""
        return [column for column in self.items.columns if column not in RESERVED]

    @cached_property
    def overview(self) -> pl.DataFrame:
        """One row per item, in the order of `items`.

        Returns:
            id, status (ok if an image of the item is ok, else that of its first image), images
            (their number), and sha256 of the first fetched image, null without one.
        """
        is_ok = pl.col("status") == OK
        by_item = self.images.group_by("id", maintain_order=True).agg(
            pl.when(is_ok.any())
            .then(pl.lit(OK))
            .otherwise(pl.col("status").first())
            .alias("status"),
            pl.len().cast(pl.Int32).alias("images"),
            pl.col("sha256").drop_nulls().first(),
        )
        ids = self.items.select("id")
        return ids.join(by_item, on="id", how="left", maintain_order="left").with_columns(
            pl.col("status").fill_null(PENDING), pl.col("images").fill_null(0)
        )

    @cached_property
    def status_counts(self) -> dict[str, int]:
        """How many items have each status, the most frequent first."""
        counts = (
            self.overview["status"]
            .value_counts()
            .sort(["count", "status"], descending=[True, False])
        )
        return dict(counts.iter_rows())

    @cached_property
    def shared_images(self) -> pl.DataFrame:
        """The images that several items have, the most shared first.

        Returns:
            sha256, items (how many have it), and id and image where it is first.
        """
        fetched = self.images.filter(pl.col("sha256").is_not_null())
        return (
            fetched.unique(["id", "sha256"], keep="first", maintain_order=True)
            .group_by("sha256", maintain_order=True)
            .agg(
                pl.len().cast(pl.Int64).alias("items"),
                pl.col("id").first(),
                pl.col("image").first(),
            )
            .filter(pl.col("items") > 1)
            .sort(["items", "sha256"], descending=[True, False])
        )

    def images_of(self, item_id: str) -> pl.DataFrame:
        """The rows of `images` of one item."""
        first = self.images["id"].search_sorted(item_id, "left")
        last = self.images["id"].search_sorted(item_id, "right")
        return self.images.slice(first, last - first)

    def position(self, item_id: str) -> int | None:
        """The position of an item in `items` and `overview`; None where it is in neither."""
        position = int(self.items["id"].search_sorted(item_id, "left"))
        if position == self.items.height or self.items["id"][position] != item_id:
            return None
        return position


def read_catalog(view: View, name: str) -> CatalogRows:
    """The version of a catalog that a view has pinned; what was read is kept in the view's cache.

    Raises:
        NotFoundError: there is no such catalog.
    """
    tables = [f"{name}/{table}" for table in ("items", "images", "embeddings")]
    items = view.commit(tables[0])
    version = tuple(commit.commit_id for commit in map(view.commits.get, tables) if commit)

    def frame(kind: str, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        return view.cache.get((kind, name, version), read)

    def overview(rows: CatalogRows) -> pl.DataFrame:
        return frame("browse overview", lambda: _overview(rows))

    return CatalogRows(
        name,
        frame("browse items", lambda: items_table(view.store, name).read(items).sort("id")),
        frame("browse images", lambda: _images(view, name)),
        overview,
    )
