"""A gallery that was written to a file, which a notebook shows by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from imgsim_assets.gallery.document import Gallery
from imgsim_assets.gallery.page import page_with_images, write_gallery

# Rows that a notebook shows, since they are stored in its file.
_SHOWN_ROWS = 50


@dataclass(frozen=True)
class GalleryFile(os.PathLike[str]):
    """The page of a gallery; `os.fspath` and `open` accept it.

    Attributes:
        path: the HTML file.
    """

    path: Path
    _gallery: Gallery = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        return notebook_html(self._gallery)


def write_gallery_file(gallery: Gallery, path: str | os.PathLike[str]) -> GalleryFile:
    """Write the page of a gallery.

    Raises:
        SettingsError: when a file cannot be written.
    """
    return GalleryFile(write_gallery(gallery, path), gallery)


def notebook_html(gallery: Gallery) -> str:
    """The page of the first 50 rows in a frame, apart from the scripts and styles of a notebook."""
    page = page_with_images(gallery.head(_SHOWN_ROWS))
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts allow-popups" '
        f'title="{escape(gallery.title)}" '
        'style="width: 100%; height: 480px; border: 1px solid #888"></iframe>'
    )
