"""The store: one root that holds every table and every image of a project."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.files import Files, open_files
from imgsim_assets.storage.table import COMMITS, DATA, Table

ENVIRONMENT_VARIABLE = "IMGSIM_STORE"
DEFAULT = Path("data/store")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9][a-z0-9_.-]*)+")


class Store:
    """Tables and blobs under one local path or fsspec URL.

    `run_id` is recorded in every commit made through this object.
    """

    def __init__(self, files: Files, *, run_id: str | None = None) -> None:
        self.files = files
        self.blobs = Blobs(files)
        self._run_id = run_id

    @classmethod
    def open(
        cls,
        url: str | Path | None = None,
        *,
        project_root: Path | None = None,
        run_id: str | None = None,
    ) -> Store:
        """Open a store: `url`, else IMGSIM_STORE, else data/store of the project.

        A relative path is taken from the project root: the given one, else the nearest
        folder above the working directory that holds a Dagster project.
        """
        chosen = str(url or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT)
        if "://" not in chosen and not Path(chosen).expanduser().is_absolute():
            chosen = str((project_root or find_project_root()) / chosen)
        return cls(open_files(chosen), run_id=run_id)

    @property
    def url(self) -> str:
        """The root as a path or URL."""
        return self.files.url

    def table(self, name: str, *, key: str | None = None) -> Table:
        """The table of a name such as "products/images"; it need not exist yet."""
        if not _TABLE_NAME.fullmatch(name):
            raise StoreError(
                f"{name!r} is no table name; it reads like 'products/images' or "
                "'matches/products__suppliers'"
            )
        return Table(self.files, name, key=key, run_id=self._run_id)

    def table_names(self) -> list[str]:
        """Every table that has a commit, sorted."""
        return [folder for folder in self.table_folders() if self.table(folder).versions()]

    def table_folders(self) -> list[str]:
        """Every folder that looks like a table's, also those that were never committed to."""
        return sorted(self._folders_below(""))

    def _folders_below(self, folder: str) -> Iterator[str]:
        names = {entry.name for entry in self.files.entries(folder) if entry.is_folder}
        if names & {COMMITS, DATA} and _TABLE_NAME.fullmatch(folder):
            yield folder
            names -= {COMMITS, DATA}
        for name in sorted(names):
            if not name.startswith("_"):
                yield from self._folders_below(f"{folder}/{name}" if folder else name)


def find_project_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` (the working directory) upwards, of a Dagster project.

    It is recognized by a pyproject.toml or dg.toml with a [tool.dg] or [project] table of dg;
    without one, `start` itself is returned.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        pyproject = folder / "pyproject.toml"
        if (folder / "dg.toml").is_file():
            return folder
        if pyproject.is_file() and "[tool.dg" in pyproject.read_text(encoding="utf-8"):
            return folder
    return here
