"""Results as a notebook shows them: `%load_ext imgsim_assets` adds their images.

Polars draws a DataFrame as a table, whoever made it. With the extension, the frames of match
tables, similarity graphs, duplicate groups and images of a store, and those that `query` returns,
are shown with their images; all others stay as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from imgsim_assets.errors import ImgsimError
from imgsim_assets.gallery.file import notebook_html
from imgsim_assets.gallery.tables import gallery_of_frame
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from imgsim_assets.gallery.document import Gallery

# Images that are read to see whether the store has those of a frame.
_SAMPLE = 4
_FRAMES = (pl.DataFrame, pl.LazyFrame)


class _Results:
    """How the results of queries that still exist are shown, while a notebook needs it."""

    def __init__(self) -> None:
        self.is_shown = False
        self._known: dict[int, tuple[weakref.ref[pl.DataFrame], Callable[..., Gallery]]] = {}

    def add(self, result: pl.DataFrame, gallery: Callable[[pl.DataFrame], Gallery]) -> None:
        key = id(result)
        self._known[key] = weakref.ref(result, lambda _: self._known.pop(key, None)), gallery

    def gallery_of(self, frame: object) -> Gallery | None:
        known, gallery = self._known.get(id(frame), (None, None))
        if known is None or gallery is None or known() is not frame:
            return None
        return gallery(frame)


_results = _Results()


def show_frames(ipython: Any) -> None:
    """Let an IPython shell show frames with their images."""
    formatter = ipython.display_formatter.formatters["text/html"]
    for kind in _FRAMES:
        formatter.for_type(kind, frame_html)
    _results.is_shown = True


def hide_frames(ipython: Any) -> None:
    """Let an IPython shell show frames as Polars does."""
    formatter = ipython.display_formatter.formatters["text/html"]
    for kind in _FRAMES:
        formatter.pop(kind, None)
    _results.is_shown = False


def remember_result(result: pl.DataFrame, gallery: Callable[[pl.DataFrame], Gallery]) -> None:
    """Note how the result of a query is shown, if a notebook shows frames with their images.

    Args:
        result: the result.
        gallery: makes the gallery of it.
    """
    if _results.is_shown:
        _results.add(result, gallery)


def frame_html(frame: pl.DataFrame | pl.LazyFrame) -> str:
    """A frame with its images, or the table that Polars draws."""
    try:
        gallery = _results.gallery_of(frame) or gallery_of_frame(
            frame, Store.open(), title="Images"
        )
    except ImgsimError:  # there is no store to read from
        gallery = None
    if gallery is None or not _has_images(gallery):
        html: str = frame._repr_html_()
        return html
    return notebook_html(gallery)


def _has_images(gallery: Gallery) -> bool:
    sample = gallery.images.thumbnails(gallery.image_keys()[:_SAMPLE])
    return any(thumbnail.jpeg is not None for thumbnail in sample)
