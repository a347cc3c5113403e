"""Where a store is, known without opening it."""

from __future__ import annotations

import os
from pathlib import Path

from imgsim_assets.errors import in_home
from imgsim_assets.storage.project import find_project_root

ENVIRONMENT_VARIABLE = "IMGSIM_STORE"
DEFAULT = Path("data/store")


def default_url() -> str:
    """The path or URL of a store that nothing declares: IMGSIM_STORE, else data/store."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or str(DEFAULT)


def absolute_url(url: str | Path, project_root: Path | None = None) -> str:
    """The path or URL of a store, independent of the working directory.

    Args:
        url: local path or fsspec URL.
        project_root: the folder that a relative path starts from; default: the nearest folder
            above the working directory that holds a Dagster project.
    """
    location = str(url)
    if "://" in location or in_home(location).is_absolute():
        return location
    return str((project_root or find_project_root()) / location)


def local_folder(url: str) -> Path | None:
    """The folder that a local path or a `file://` URL names; None for any other URL."""
    if "://" in url and not url.startswith("file://"):
        return None
    return in_home(url.removeprefix("file://")).absolute()
