"""The images of the store: originals, and thumbnails of a given size."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.formats import image_format
from imgsim_assets.service.errors import PROBLEMS, NotFoundError
from imgsim_assets.service.view import CurrentView
from imgsim_assets.storage.store import Store

router = APIRouter(prefix="/api", tags=["images"])

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="sha256 of the image's bytes")]
_MAX_SIDE = 2048
_JPEG_QUALITY = 85
# An image of 50 megapixels takes 150 MB while it is decoded.
_MAX_DECODING = 4
# The bytes of an image never change, since the address is their digest.
_CACHE_CONTROL = "private, max-age=31536000, immutable"
# Formats that browsers show; all others are sent as a file to download.
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
_IMAGES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "the image"},
    304: {"description": "the client has it"},
    **PROBLEMS,
}


class Thumbnails:
    """JPEGs of images at a size, the latest ones kept in memory.

    Args:
        max_bytes: How much memory they may take together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._decoding = threading.BoundedSemaphore(_MAX_DECODING)

    def get(self, store: Store, sha256: str, side: int) -> bytes:
        """A JPEG whose longer edge has at most `side` pixels.

        Raises:
            CorruptFileError: The store does not have the image.
            ImageError: It cannot be decoded.
        """
        key = (sha256, side)
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        with self._decoding:
            image = thumbnail(store.blobs.get(sha256), side)
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self._bytes += len(image)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._images.popitem(last=False)[1])
        return image


def thumbnail(data: bytes, side: int) -> bytes:
    """An image file as a JPEG whose longer edge has at most `side` pixels.

    Raises:
        ImageError: It cannot be decoded.
    """
    image = decode(data, min_size=side, accept_truncated=True).copy()
    image.thumbnail((side, side))
    body = io.BytesIO()
    image.save(body, "JPEG", quality=_JPEG_QUALITY)
    return body.getvalue()


@router.get("/images/{sha256}", response_class=Response, responses=_IMAGES)
def get_image(
    request: Request,
    view: CurrentView,
    sha256: Sha256,
    side: Annotated[
        int | None,
        Query(ge=16, le=_MAX_SIDE, description="longest edge in pixels; default: the original"),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Get an image by its sha256: a JPEG thumbnail, or the bytes as they were downloaded."""
    etag = f'"{sha256}-{side}"' if side is not None else f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": _CACHE_CONTROL}
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    thumbnails: Thumbnails = request.app.state.thumbnails
    try:
        if side is not None:
            return Response(
                thumbnails.get(view.store, sha256, side), media_type="image/jpeg", headers=headers
            )
        data = view.store.blobs.get(sha256)
    except CorruptFileError as error:
        raise NotFoundError(f"the store has no readable image {sha256}") from error
    except ImageError as error:
        raise NotFoundError(f"image {sha256} cannot be decoded: {error.detail}") from error
    return _original(data, sha256, headers)


def _original(data: bytes, sha256: str, headers: dict[str, str]) -> Response:
    media_type = _MEDIA_TYPES.get(image_format(data) or "")
    if media_type is None:
        headers = {**headers, "Content-Disposition": f'attachment; filename="{sha256}"'}
    return Response(data, media_type=media_type or "application/octet-stream", headers=headers)


def _matches(if_none_match: str, etag: str) -> bool:
    listed = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return etag in listed or "*" in listed
