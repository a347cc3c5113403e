"""Where a store keeps the galleries of its tables, and which of them garbage collection deletes.

_galleries/<table>/000000000042-<commit>.html   the page of a version
_galleries/<table>/images/<sha256>.jpg          thumbnails of the pages that have none inside
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import polars as pl

from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.files import Entry, Files

_GALLERIES = "_galleries"
IMAGES = "images"
_PAGE, _THUMBNAIL = ".html", ".jpg"
_ID_DIGITS = 8


def page_path(commit: Commit) -> str:
    """The page of a version of a table."""
    return f"{_GALLERIES}/{commit.table}/{_page_name(commit)}"


def _page_name(commit: Commit) -> str:
    # A table that was deleted or repaired uses its numbers again.
    return f"{commit.version:012d}-{commit.commit_id[:_ID_DIGITS]}{_PAGE}"


def thumbnail_path(table: str, sha256: str) -> str:
    """A thumbnail that the pages of a table link to."""
    return f"{_GALLERIES}/{table}/{IMAGES}/{sha256}{_THUMBNAIL}"


def unneeded_files(
    files: Files, table: str, commits: Collection[Commit], images: pl.Series
) -> Iterator[tuple[str, Entry]]:
    """The files of a table's galleries that nothing needs any more, each with its folder.

    Args:
        files: the root of the store.
        table: the name of the table.
        commits: those that are kept.
        images: the sha256 of the images that are kept.
    """
    folder = f"{_GALLERIES}/{table}"
    pages = set(map(_page_name, commits))
    for entry in files.entries(folder):
        if not entry.is_folder and entry.name not in pages:
            yield folder, entry
    thumbnails = files.entries(f"{folder}/{IMAGES}")
    if thumbnails:
        kept = set(images.to_list())
        for entry in thumbnails:
            if entry.name.removesuffix(_THUMBNAIL) not in kept:
                yield f"{folder}/{IMAGES}", entry
    for parent in (folder, f"{folder}/{IMAGES}"):
        for entry in files.temporary_entries(parent):
            yield parent, entry
