"""Thumbnails of images as small JPEGs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from PIL import Image

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.gallery.thumbnail_table import ThumbnailTable
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.storage.store import Store

EDGE_PX = 200
_JPEG_QUALITY = 75
_THREADS = 4
# Thumbnails that are in memory at once, and that one commit of the table has.
_BATCH = 1000


class Thumbnail(NamedTuple):
    """A small JPEG and the name that identifies it; None for an image that cannot be shown."""

    name: str
    jpeg: bytes | None


class ImageSource(Protocol):
    """Where the images of a gallery come from, by a key."""

    def thumbnails(self, keys: Sequence[str]) -> Iterator[Thumbnail]:
        """The thumbnail of each key, in their order."""


class Readable(Protocol):
    """An image that is loaded on demand."""

    def read(self, min_size: int | None = None) -> tuple[Image.Image, Any]:
        """The image upright and in RGB first; ImageError when it cannot be read or decoded."""


class GivenImages:
    """Images of a dataset; None for one that is unknown."""

    def __init__(self, images: Mapping[str, Readable | None]) -> None:
        self._images = images

    def thumbnails(self, keys: Sequence[str]) -> Iterator[Thumbnail]:
        """See `ImageSource`; equal images have one name."""
        with ThreadPoolExecutor(_THREADS, "thumbnails") as pool:
            for start in range(0, len(keys), _BATCH):
                for jpeg in pool.map(self._jpeg, keys[start : start + _BATCH]):
                    name = hashlib.sha256(jpeg).hexdigest() if jpeg is not None else ""
                    yield Thumbnail(name, jpeg)

    def _jpeg(self, key: str) -> bytes | None:
        image = self._images.get(key)
        if image is None:
            return None
        try:
            return to_jpeg(image.read(EDGE_PX)[0])
        except ImageError:
            return None


class StoredImages:
    """Images of a store, by the sha256 of their bytes.

    Args:
        store: has the images.
        keep: whether new thumbnails are kept in the store, so that they are made once.
    """

    def __init__(self, store: Store, *, keep: bool = False) -> None:
        self._store, self._keep = store, keep
        self._table = ThumbnailTable(store)

    def thumbnails(self, keys: Sequence[str]) -> Iterator[Thumbnail]:
        """See `ImageSource`."""
        with ThreadPoolExecutor(_THREADS, "thumbnails") as pool:
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                kept = self._table.read(batch)
                new = [key for key in dict.fromkeys(batch) if key not in kept]
                made = dict(zip(new, pool.map(self._jpeg, new), strict=True))
                if self._keep:
                    readable = {key: jpeg for key, jpeg in made.items() if jpeg is not None}
                    self._table.append(readable)
                for key in batch:
                    yield Thumbnail(key, kept[key] if key in kept else made[key])

    def _jpeg(self, sha256: str) -> bytes | None:
        try:
            data = self._store.blobs.get(sha256)
            return to_jpeg(decode(data, min_size=EDGE_PX, accept_truncated=True))
        except (CorruptFileError, ImageError):  # checks report damaged images
            return None


def to_jpeg(image: Image.Image) -> bytes:
    """An RGB image as a JPEG with edges of at most EDGE_PX."""
    small = image.copy()
    small.thumbnail((EDGE_PX, EDGE_PX))
    body = io.BytesIO()
    small.save(body, "JPEG", quality=_JPEG_QUALITY)
    return body.getvalue()
