"""Duplicate groups as a self-contained HTML page, with a thumbnail of each member."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.storage.store import Store
from imgsim_assets.text import REPLACEMENT, UNPRINTABLE_IN_LINE, without_credentials

_MAX_IMAGES = 1000
_THUMBNAIL_PX = 160
_JPEG_QUALITY = 78
# Shown elsewhere, or not for people.
_HIDDEN = {
    *("group_id", "catalog", "id", "sha256", "size", "is_canonical", "keep", "reason"),
    *("min_similarity", "mean_similarity", "bridges"),
}


def group_page(store: Store, members: pl.DataFrame, title: str) -> str:
    """The page: a section for each group, the canonical item first; at most 1,000 images.

    Args:
        store: holds the images.
        members: the result of `group_members`.
        title: the heading.
    """
    shown = members.head(_MAX_IMAGES)
    limit = f", the first {_MAX_IMAGES} shown" if members.height > _MAX_IMAGES else ""
    groups = shown.partition_by("group_id", maintain_order=True)
    values = {
        "TITLE": _text(title),
        "SUBTITLE": _text(f"{members['group_id'].n_unique()} groups of {members.height} items")
        + limit,
        "GROUPS": "\n".join(line for group in groups for line in _section(store, group)),
    }
    template = files("imgsim_assets.pipeline").joinpath("group_page.html").read_text("utf-8")
    # In one pass: an inserted value may look like a placeholder.
    return re.sub("@([A-Z]+)@", lambda match: values[match[1]], template)


def _section(store: Store, group: pl.DataFrame) -> Iterator[str]:
    first = group.row(0, named=True)
    yield f"<section><h2>{_text(first['group_id'])}</h2>"
    yield (
        f"<p>{first['size']} items, similarity {first['min_similarity']:.3f} at least, "
        f"{first['mean_similarity']:.3f} on average, {first['bridges']} bridges</p><ul>"
    )
    for row in group.iter_rows(named=True):
        kind = "keep" if row["keep"] else "redundant"
        image = _thumbnail(store, row["sha256"])
        picture = f'<img src="{image}" alt="">' if image else "<i>unreadable</i>"
        yield f'<li class="{kind}">{picture}<b>{_text(row["id"])}</b><span>{_text(row["reason"])}'
        yield f"</span><small>{_text(_facts(row))}</small></li>"
    yield "</ul></section>"


def _facts(row: dict[str, Any]) -> str:
    """The other columns of a member that have a value."""
    shown = {name: value for name, value in row.items() if name not in _HIDDEN}
    size = f"{shown.pop('width')} x {shown.pop('height')} {shown.pop('format')}"
    similarity = f"similarity {shown.pop('similarity'):.3f}"
    shown["image"] = shown["image"] or None  # the first image needs no number
    facts = [f"{name} {value}" for name, value in shown.items() if value not in (None, "")]
    return ", ".join([size, similarity, *facts])


def _text(value: object) -> str:
    """Text for HTML: of one line, and without passwords of URLs."""
    line = re.sub(UNPRINTABLE_IN_LINE, REPLACEMENT, without_credentials(str(value)))
    return escape(line)


def _thumbnail(store: Store, sha256: str) -> str | None:
    """A small JPEG as a data URL; None of an image that cannot be read."""
    try:
        image = decode(store.blobs.get(sha256), accept_truncated=True)
    except (CorruptFileError, ImageError):
        return None
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    body = io.BytesIO()
    image.save(body, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(body.getvalue()).decode()
