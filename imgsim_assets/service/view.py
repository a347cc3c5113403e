"""One state of a store: every table pinned to one of its commits.

A request uses one view from beginning to end, so that what it reads fits together. When a table
has a new commit, the next requests get a new view; a view that is in use stays as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from fastapi import Depends, Request

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.service.catalog_index import CatalogIndex, IndexCache
from imgsim_assets.service.errors import GoneError, NotFoundError
from imgsim_assets.service.frame_cache import FrameCache
from imgsim_assets.service.json_rows import json_rows
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS
from imgsim_assets.storage.pinned import PinnedStore
from imgsim_assets.storage.scan import scan_table

if TYPE_CHECKING:
    from imgsim_assets.storage.commit import Commit
    from imgsim_assets.storage.commit_log import CommitStamp
    from imgsim_assets.storage.store import Store

_log = logging.getLogger(__name__)
_MATCHES = "matches/"


@dataclass(frozen=True)
class View:
    """The commits of a store that requests see together.

    Attributes:
        store: The store.
        commits: The pinned commit of each table, by its name.
        cache: Tables that were read, shared by all views.
        indexes: Indexes that were opened, shared by all views.
    """

    store: Store
    commits: Mapping[str, Commit] = field(default_factory=dict)
    cache: FrameCache = field(default_factory=FrameCache)
    indexes: IndexCache = field(default_factory=IndexCache)

    @cached_property
    def pinned(self) -> Store:
        """The store as this view sees it, for functions that read the newest versions."""
        return PinnedStore(self.store, self.commits)

    def index(self, catalog: str) -> CatalogIndex:
        """The index of a catalog, opened with its first query.

        Raises:
            StoreError: There is none, or it is damaged.
        """
        return self.indexes.get(self.pinned, catalog)

    def commit(self, table: str) -> Commit:
        """The pinned commit of a table.

        Raises:
            NotFoundError: There is no such table.
        """
        commit = self.commits.get(table)
        if commit is None:
            raise NotFoundError(f"the store has no table {table!r}")
        return commit

    def frame(self, table: str) -> pl.DataFrame:
        """All rows of a table, verified. The frame is shared: nobody changes it.

        Raises:
            NotFoundError: There is no such table.
            CorruptFileError: A file is missing or damaged.
        """
        return self._frame(self.commit(table))

    def _frame(self, commit: Commit) -> pl.DataFrame:
        table = self.store.table(commit.table, key=commit.key)
        return self.cache.get((commit.table, commit.commit_id), lambda: table.read(commit))

    def at(self, versions: Mapping[str, int]) -> Store:
        """The store at given versions of some tables, which has no others.

        Raises:
            GoneError: A version was deleted.
        """
        commits = {table: self._commit_at(table, version) for table, version in versions.items()}
        return PinnedStore(self.store, commits)

    def frame_at(self, table: str, version: int) -> pl.DataFrame:
        """All rows of a version of a table, as `frame`.

        Raises:
            GoneError: The version was deleted.
            CorruptFileError: A file is missing or damaged.
        """
        commit = self._commit_at(table, version)
        if commit == self.commits.get(table):
            return self.frame(table)
        try:
            return self._frame(commit)
        except CorruptFileError as error:
            raise GoneError(f"version {version} of {table} is being deleted") from error

    def _commit_at(self, table: str, version: int) -> Commit:
        pinned = self.commits.get(table)
        if pinned is not None and pinned.version == version:
            return pinned
        try:
            return self.store.table(table).at(version)
        except StoreError as error:
            raise GoneError(f"{error}; start again without a cursor") from error

    def scan(self, table: str) -> pl.LazyFrame:
        """The rows of a table, read only as far as they are needed.

        Raises:
            NotFoundError: There is no such table.
            StoreError: The table holds no rows.
        """
        commit = self.commit(table)
        return scan_table(self.store.table(table, key=commit.key), commit)

    def items(self, catalog: str, ids: pl.Series) -> dict[str, dict[str, Any]]:
        """The rows of some items of a catalog, without their ids, by id."""
        table = f"{catalog}/items"
        if table not in self.commits:
            return {}
        rows = self.frame(table).filter(pl.col("id").is_in(ids.implode()))
        return {row.pop("id"): row for row in json_rows(rows)}

    @property
    def catalogs(self) -> list[str]:
        """The names of the image catalogs, sorted."""
        names = [name for name in self.commits if name.count("/") == 1]
        return sorted(name.removesuffix("/images") for name in names if name.endswith("/images"))

    @property
    def match_tables(self) -> list[str]:
        """The names of the match tables, without `matches/`, sorted."""
        return sorted(
            name.removeprefix(_MATCHES) for name in self.commits if name.startswith(_MATCHES)
        )

    @property
    def group_tables(self) -> list[str]:
        """The tables of duplicate groups, of one catalog or of several, sorted."""
        return sorted(filter(_holds_groups, self.commits))


def _holds_groups(table: str) -> bool:
    kind, _, rest = table.partition("/")
    return CROSS_CATALOG_GROUPS in (kind, rest.partition(".")[0])


class Views:
    """The current view of a store, replaced when the store has new commits.

    Attributes:
        problem: Why the store could not be read the last time; None if it could.
    """

    problem: str | None = None

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._lock = threading.Lock()
        self._current = View(store, cache=FrameCache(cache_bytes))
        self._stamps: dict[str, CommitStamp] = {}

    @property
    def current(self) -> View:
        """The newest view."""
        return self._current

    def refresh(self) -> bool:
        """Look for new commits, and replace the view if there are any; whether there were.

        Raises:
            StoreError, OSError: The store cannot be read; the view stays.
        """
        with self._lock:
            commits = self._newest_commits()
            if commits == self._current.commits:
                return False
            view = replace(self._current, commits=commits)
            self._open_indexes(view)
            self._current = view
            return True

    def _newest_commits(self) -> dict[str, Commit]:
        """The newest commit of every table, read only if its file is not the known one."""
        store, known = self._current.store, self._current.commits
        commits: dict[str, Commit] = {}
        stamps: dict[str, CommitStamp] = {}
        for name in store.table_folders():
            table = store.table(name)
            stamp = table.newest_stamp()
            if stamp is None:
                continue
            is_known = name in known and stamp == self._stamps.get(name)
            commit = known[name] if is_known else table.latest()
            if commit is not None:
                commits[name], stamps[name] = commit, stamp
        self._stamps = stamps
        return commits

    @staticmethod
    def _open_indexes(view: View) -> None:
        """Open the indexes that are in use at their new versions, so that no request waits."""
        for catalog in view.indexes.catalogs():
            if f"{catalog}/index" not in view.commits:
                view.indexes.close(catalog)
                continue
            try:
                view.index(catalog)
            except StoreError as error:
                # A query of this catalog says so; the others get the new view.
                _log.warning("the index of %s cannot be opened: %s", catalog, error)


def current_view(request: Request) -> View:
    """The view that a request uses."""
    views: Views = request.app.state.views
    return views.current


CurrentView = Annotated[View, Depends(current_view)]
