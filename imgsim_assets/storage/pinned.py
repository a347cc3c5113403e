"""A store at one moment: every table is at one of its commits, whatever is committed later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit, Key
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


class PinnedStore(Store):
    """A store whose newest commits are given ones. It cannot be written to.

    Args:
        store: The store; its images are shared.
        commits: The commit of each table, by name. The store has no other tables.
    """

    def __init__(self, store: Store, commits: Mapping[str, Commit]) -> None:
        super().__init__(store.files)
        self.blobs = store.blobs
        self._commits = commits

    def table(self, name: str, *, key: Key = None) -> Table:
        """A table at its pinned commit, as `Store.table`."""
        super().table(name)  # Checks the name.
        return _PinnedTable(self.files, name, self._commits.get(name), key=key)

    def table_names(self) -> list[str]:
        """Every table that has a pinned commit, sorted."""
        return sorted(self._commits)


class _PinnedTable(Table):
    def __init__(self, files: Files, name: str, pinned: Commit | None, *, key: Key) -> None:
        super().__init__(files, name, key=key)
        self._pinned = pinned

    def latest(self) -> Commit | None:
        return self._pinned

    def commit(self, change: Callable[[Commit | None], object]) -> NoReturn:
        raise StoreError(f"table {self.name} is pinned to a version, and cannot be written to")

    def append(self, *_: object, **__: object) -> NoReturn:
        self.commit(lambda _: None)
