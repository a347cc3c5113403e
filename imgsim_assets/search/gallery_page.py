"""The page of a gallery: one self-contained HTML file, made from a template.

Each image is embedded once as a small JPEG.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.search.thumbnails import Thumbnails

_BINS = 30


def numbered_images(numbered: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The images (number, thumbnail) of an item as the page shows them."""
    several = len(numbered) > 1
    return [
        {"image": thumbnail, "note": f"image {number}" if several or number else ""}
        for number, thumbnail in numbered
    ]


def write_page(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Thumbnails,
    distances: pl.Series | None,
) -> Path:
    """Write the page of a gallery.

    Args:
        path: the HTML file.
        title: its heading.
        subtitle: what it shows, and what it leaves out.
        rows: for each item its label, images (image, the number of a thumbnail, and note) and
            neighbors, which have the same keys, distance and orientation.
        thumbnails: the images.
        distances: of all pairs, for the histogram; None for a gallery without neighbors.

    Raises:
        SettingsError: when the file cannot be written.
    """
    import numpy as np

    from imgsim_assets.images.plot import histogram

    max_distance, chart = 0.0, ""
    if distances is not None and len(distances):
        values = distances.to_numpy()
        max_distance = float(values.max())
        counts, edges = np.histogram(values, bins=_BINS, range=(0.0, max_distance or 1.0))
        chart = histogram(
            counts.tolist(), edges.tolist(), title=f"distance of {len(values):,} pairs"
        )
    # A label may hold the end of a script element, or the start of a comment in it.
    data = json.dumps({"rows": rows, "images": thumbnails.urls}).replace("<", "\\u003c")
    placeholders = {
        "TITLE": escape(title),
        "SUBTITLE": escape(subtitle),
        "CHART": chart,
        "MAX_DISTANCE": f"{max_distance * 1.000001:.6f}",
        "CONTROLS": "" if distances is not None else "hidden",
        "DATA": data,
    }
    template = files("imgsim_assets.search").joinpath("gallery.html").read_text("utf-8")
    # In one pass: an inserted value may look like a placeholder.
    page = re.sub("@([A-Z_]+)@", lambda match: placeholders[match[1]], template)
    target = Path(path)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"path: {target} cannot be written: {error.strerror}") from error
    return target
