"""The store: one root that holds every table and every image of a project."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.commit import Key
from imgsim_assets.storage.commit_log import COMMITS
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.location import (
    ENVIRONMENT_VARIABLE,
    absolute_url,
    default_url,
    local_folder,
)
from imgsim_assets.storage.project import (
    DeclaredStore,
    declared_store,
    find_project_root,
    python_store_file,
)
from imgsim_assets.storage.remote_files import SINGLE_WRITER, RemoteFiles
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.table_files import DATA

_opened: dict[tuple[str, str | None], Store] = {}
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9][a-z0-9_.-]*)+")


class Store:
    """Tables and blobs under one local path or fsspec URL.

    Args:
        files: The root of the store.
        run_id: The Dagster run that every commit made through this object records.
    """

    def __init__(self, files: Files, *, run_id: str | None = None) -> None:
        self.files = files
        self.blobs = Blobs(files)
        self._run_id = run_id

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the store again, once, with credentials of its own.
        return _reopened, (self.files, self._run_id)

    @classmethod
    def open(
        cls,
        url: str | Path | None = None,
        *,
        project_root: Path | None = None,
        run_id: str | None = None,
        single_writer: bool | None = None,
    ) -> Store:
        """Open a store. A store that does not exist yet is created by the first write.

        Args:
            url: Local path or fsspec URL; default: what the project's StoreComponent declares,
                else the environment variable IMGSIM_STORE, else data/store.
            project_root: The project, whose folder a relative path starts from; default: the
                nearest folder above the working directory that holds a Dagster project.
            run_id: The Dagster run that every commit records.
            single_writer: Whether only one run writes at a time, which an object store without
                conditional writes requires; default: the environment variable
                IMGSIM_SINGLE_WRITER, else False.

        Raises:
            SettingsError: IMGSIM_SINGLE_WRITER is neither true nor false, or the declaration of
                the store cannot be read.
            StoreError: The URL's filesystem cannot hold a store, or the project declares its
                store in Python.
        """
        if url is None:
            declared = _declared(project_root or find_project_root())
            url = declared.url or default_url()
            single_writer = single_writer if single_writer is not None else declared.single_writer
        location = absolute_url(url, project_root)
        return cls(open_files(location, single_writer=single_writer), run_id=run_id)

    @property
    def url(self) -> str:
        """The root as a path or URL."""
        return self.files.url

    def table(self, name: str, *, key: Key = None) -> Table:
        """A table, which need not exist yet.

        Args:
            name: Such as "products/images".
            key: Columns by which a later row replaces an earlier one; see `Table`.

        Raises:
            StoreError: The name is malformed.
        """
        if not _TABLE_NAME.fullmatch(name):
            raise StoreError(
                f"{name!r} is not a table name; write one such as 'products/images' or "
                "'matches/products__suppliers'"
            )
        return Table(self.files, name, key=key, run_id=self._run_id)

    def table_names(self) -> list[str]:
        """Every table that has a commit, sorted."""
        return [folder for folder in self.table_folders() if self.table(folder).versions()]

    def table_folders(self, below: str = "") -> list[str]:
        """Every folder that looks like a table's, also those without a commit, sorted.

        Args:
            below: the folder to look in, such as "reviews"; by default the whole store.
        """
        return sorted(self._folders_below(below))

    def _folders_below(self, folder: str) -> Iterator[str]:
        names = {entry.name for entry in self.files.entries(folder) if entry.is_folder}
        if names & {COMMITS, DATA} and _TABLE_NAME.fullmatch(folder):
            yield folder
            names -= {COMMITS, DATA}
        for name in sorted(names):
            if not name.startswith("_"):
                yield from self._folders_below(f"{folder}/{name}" if folder else name)


def _reopened(files: Files, run_id: str | None) -> Store:
    """The store of a task that another process has sent."""
    if isinstance(files, LocalFiles) and not files.root.is_dir():
        raise StoreError(
            f"{socket.gethostname()} has no folder {files.root}, where the store is; mount it on "
            "every machine, or keep the store on an object store"
        )
    return _opened.setdefault((files.url, run_id), Store(files, run_id=run_id))


def _declared(root: Path) -> DeclaredStore:
    """The store as the project declares it; Python is not run, so IMGSIM_STORE must repeat it."""
    declared = declared_store(root)
    if declared is not None:
        return declared
    file = python_store_file(root)
    if file is not None and not os.environ.get(ENVIRONMENT_VARIABLE):
        raise StoreError(
            f"{file} declares the store of this project in Python; give its path or URL here too "
            f"(store=..., or {ENVIRONMENT_VARIABLE})"
        )
    return DeclaredStore(None, None)


def open_files(url: str, *, single_writer: bool | None = None) -> Files:
    """The files under a local path, a `file://` URL or any other fsspec URL."""
    folder = local_folder(url)
    if folder is not None:
        return LocalFiles(folder)
    if single_writer is None:
        single_writer = _is_single_writer()
    return RemoteFiles(url, single_writer=single_writer)


def _is_single_writer() -> bool:
    value = os.environ.get(SINGLE_WRITER, "").strip().lower()
    if value not in ("", "true", "false", "1", "0"):
        raise SettingsError(f"{SINGLE_WRITER} is {value!r}; write true or false")
    return value in ("true", "1")
