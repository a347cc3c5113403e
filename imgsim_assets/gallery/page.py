"""The page of a gallery: one HTML file that works offline, with its images inside or beside it.

The page is drawn by the templates, style sheets and scripts of the served pages. A policy in it
lets a browser run only these scripts and load nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imgsim_assets.errors import SettingsError
from imgsim_assets.gallery.document import Gallery
from imgsim_assets.gallery.thumbnails import Thumbnail
from imgsim_assets.pages import templates as pages
from imgsim_assets.text import printable_line

# Rows of a page that has its images inside.
_MAX_INSIDE = {"pairs": 2000, "groups": 4000, "items": 4000}
_TEMPLATE = "gallery.html"
_STYLES = ("base.css", "gallery.css")
# Each after those that it imports.
_SCRIPTS = ("dom.js", "theme.js", "pair.js", "lazy_list.js", "gallery_cards.js", "gallery.js")


def has_images_inside(gallery: Gallery) -> bool:
    """Whether the page of a gallery has its images inside."""
    return gallery.rows.height <= _MAX_INSIDE[gallery.layout]


def page_with_images(gallery: Gallery) -> str:
    """The page with all its images inside."""
    urls: dict[str, str] = {}
    by_key: dict[str, str] = {}
    keys = gallery.image_keys()
    for key, thumbnail in zip(keys, gallery.images.thumbnails(keys), strict=True):
        if thumbnail.jpeg is not None:
            encoded = base64.b64encode(thumbnail.jpeg).decode()
            urls.setdefault(thumbnail.name, f"data:image/jpeg;base64,{encoded}")
            by_key[key] = thumbnail.name
    return _page(gallery, urls, by_key, "data:")


def write_gallery(gallery: Gallery, path: str | os.PathLike[str]) -> Path:
    """Write the page of a gallery; with more than 2,000 pairs its images are in a folder beside it.

    The page out.html has the folder out_files.

    Raises:
        SettingsError: when a file cannot be written.
    """
    target = Path(path)
    try:
        if has_images_inside(gallery):
            text = page_with_images(gallery)
        else:
            text = _page_with_folder(gallery, target.with_name(f"{target.stem}_files"))
        _write(target, text.encode())
    except OSError as error:
        raise SettingsError(f"path: {target} cannot be written: {error.strerror}") from error
    return target


def _page_with_folder(gallery: Gallery, folder: Path) -> str:
    """The page of a gallery whose images are written to a folder."""
    folder.mkdir(exist_ok=True)

    def write(thumbnail: Thumbnail, jpeg: bytes) -> None:
        path = folder / f"{thumbnail.name}.jpg"
        if not path.exists():
            _write(path, jpeg)

    return page_with_links(gallery, quote(folder.name), write)


def page_with_links(gallery: Gallery, folder: str, write: Any) -> str:
    """The page of a gallery whose images are files of a folder.

    Args:
        gallery: what the page shows.
        folder: the folder as the page's links name it.
        write: stores an image, (thumbnail, its JPEG).
    """
    urls: dict[str, str] = {}
    by_key: dict[str, str] = {}
    keys = gallery.image_keys()
    for key, thumbnail in zip(keys, gallery.images.thumbnails(keys), strict=True):
        if thumbnail.jpeg is None:
            continue
        if thumbnail.name not in urls:
            write(thumbnail, thumbnail.jpeg)
            urls[thumbnail.name] = f"{folder}/{thumbnail.name}.jpg"
        by_key[key] = thumbnail.name
    return _page(gallery, urls, by_key, "'self' file:")


def _page(
    gallery: Gallery, urls: Mapping[str, str], by_key: Mapping[str, str], image_sources: str
) -> str:
    """The page; `urls` are those of the images by name, and `by_key` the names by key."""
    numbers = {name: number for number, name in enumerate(urls)}
    data = gallery.json({key: numbers[name] for key, name in by_key.items()})
    style, script = pages.style(*_STYLES), pages.script(*_SCRIPTS)
    policy = (
        f"default-src 'none'; img-src {image_sources}; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return pages.render(
        _TEMPLATE,
        root="",
        title=printable_line(gallery.title),
        subtitle=printable_line(gallery.subtitle),
        empty=gallery.empty,
        policy=policy,
        style=style,
        script=script,
        data=_json(data),
        images=_json(list(urls.values())),
    )


def _json(value: Any) -> str:
    """JSON inside a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    """A source expression that allows one text inside an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _write(path: Path, data: bytes) -> None:
    """Write a file, which is complete or not there."""
    unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex}{path.suffix}")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
