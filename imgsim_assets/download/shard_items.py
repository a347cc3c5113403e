"""The images of one shard's items, as the catalog had them when the run began and has them now."""

from __future__ import annotations

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS, image_rows
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.files.image_folder import is_web, resolve_relative_url
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


class ShardItems:
    """The images of a shard's items by the latest version of the catalog.

    `rows` (id, image, url; sorted by id and image) hold the url from which each image is fetched,
    `version` is that of the catalog, and `root` is where relative paths start.

    Raises:
        StoreError: the catalog was never ingested.
    """

    def __init__(self, store: Store, name: str, shard: Shard) -> None:
        self._table = items_table(store, name)
        self._shard = shard
        commit = self._table.latest()
        if commit is None:
            raise StoreError(f"{name}/items has no version yet; materialize it first")
        self.version = self._latest_version = commit.version
        self.root: str = commit.properties["root"]
        self.rows = self._latest = self._read(commit)

    def latest(self) -> pl.DataFrame:
        """The images by the catalog's latest version; the same frame while nothing changes."""
        commit = self._table.latest()
        if commit is not None and commit.version > self._latest_version:
            rows = self._read(commit)
            if not rows.equals(self._latest):
                self._latest = rows
            self._latest_version = commit.version
        return self._latest

    def _read(self, commit: Commit) -> pl.DataFrame:
        items = self._table.read(commit, shard=self._shard, columns=["id", "url", OTHER_URLS])
        rows = image_rows(items).sort("id", maintain_order=True)
        root = commit.properties["root"]
        if not is_web(root):
            return rows
        urls = [resolve_relative_url(root, url) for url in rows["url"].to_list()]
        resolved = rows.with_columns(pl.Series("url", urls, dtype=pl.String))
        # Two spellings of an address may be the same one.
        return resolved.unique(["id", "url"], keep="first", maintain_order=True)
