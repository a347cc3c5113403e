"""Where a store keeps the galleries of its tables, and which of them garbage collection deletes.

_galleries/<table>/000000000042-<commit>.html   the page of a version
_galleries/<table>/images/<sha256>.jpg          thumbnails of the pages that have none inside
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

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
    files: Files, tables: Mapping[str, Collection[Commit]], images: pl.Series
) -> Iterator[tuple[str, Entry]]:
    """The files of galleries that nothing needs any more, each with its folder.

    They are of versions or images that are not kept, or of tables that the store does not have.

    Args:
        files: the root of the store.
        tables: the commits that are kept, by the name of the table.
        images: the sha256 of the images that are kept.
    """
    pages = {name: set(map(_page_name, commits)) for name, commits in tables.items()}
    for folder, entries in _folders(files, _GALLERIES):
        name = folder.removeprefix(f"{_GALLERIES}/")
        kept = set(pages.get(name, ()))
        if name.removesuffix(f"/{IMAGES}") in tables:
            thumbnails = pl.Series(map(_image, entries), dtype=pl.String)
            kept |= {
                f"{sha256}{_THUMBNAIL}" for sha256 in thumbnails.filter(thumbnails.is_in(images))
            }
        yield from ((folder, entry) for entry in entries if entry.name not in kept)
        for entry in files.temporary_entries(folder):
            yield folder, entry


def _image(thumbnail: Entry) -> str:
    return thumbnail.name.removesuffix(_THUMBNAIL)


def _folders(files: Files, folder: str) -> Iterator[tuple[str, list[Entry]]]:
    """A folder and all folders below it, each with its files."""
    entries = files.entries(folder)
    yield folder, [entry for entry in entries if not entry.is_folder]
    for entry in entries:
        if entry.is_folder:
            yield from _folders(files, f"{folder}/{entry.name}")
