"""Thumbnails of images as data URLs, each one once."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from imgsim_assets.search.image_ref import ImageRef

_EDGE_PX = 160
_JPEG_QUALITY = 78
_THREADS = 4

Key = TypeVar("Key", bound=Hashable)


class Thumbnails:
    """Small JPEGs as data URLs, each one once."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, images: Mapping[Key, ImageRef | None]) -> dict[Key, int]:
        """The number of each image's thumbnail, -1 for an image that cannot be read."""
        with ThreadPoolExecutor(_THREADS, "read") as pool:
            urls = pool.map(_thumbnail, images.values())
            return {key: self._number(url) for key, url in zip(images, urls, strict=True)}

    def _number(self, url: str | None) -> int:
        if url is None:
            return -1
        if url not in self._numbers:
            self._numbers[url] = len(self.urls)
            self.urls.append(url)
        return self._numbers[url]


def _thumbnail(ref: ImageRef | None) -> str | None:
    from imgsim_assets.images.errors import ImageError

    if ref is None:
        return None
    try:
        image, _ = ref.read(_EDGE_PX)
    except ImageError:
        return None
    thumbnail = image.copy()
    thumbnail.thumbnail((_EDGE_PX, _EDGE_PX))
    body = io.BytesIO()
    thumbnail.save(body, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(body.getvalue()).decode()
