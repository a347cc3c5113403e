"""The items of one shard, as the catalog had them when the run began and as it has them now."""

from __future__ import annotations

import polars as pl

from imgsim_assets.download.files.image_folder import is_web, resolve_relative_url
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


class ShardItems:
    """The items of a shard by the latest version of the catalog.

    `rows` (id, url) hold the url from which each image is fetched, `version` is that of the
    catalog, and `root` is where relative paths start.

    Raises:
        StoreError: the catalog was never ingested.
    """

    def __init__(self, store: Store, name: str, shard: Shard) -> None:
        self._table = store.table(f"{name}/items", key="id")
        self._shard = shard
        commit = self._table.latest()
        if commit is None:
            raise StoreError(f"{name}/items has no version yet; materialize it first")
        self.version = commit.version
        self.root: str = commit.properties["root"]
        self.rows = self._read(commit)

    def drop_urls(self) -> None:
        """Free the urls, once everything is fetched."""
        self.rows = self.rows.select("id")

    def latest(self) -> pl.DataFrame:
        """The items by the catalog's latest version; `rows` while it is the same version."""
        commit = self._table.latest()
        if commit is None or commit.version <= self.version:
            return self.rows
        return self._read(commit)

    def _read(self, commit: Commit) -> pl.DataFrame:
        rows = self._table.read(commit, shard=self._shard, columns=["id", "url"])
        root = commit.properties["root"]
        if not is_web(root):
            return rows
        urls = [resolve_relative_url(root, url) for url in rows["url"].to_list()]
        return rows.with_columns(pl.Series("url", urls, dtype=pl.String))
