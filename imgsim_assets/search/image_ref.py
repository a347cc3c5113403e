"""An image that is loaded on demand, and the digests that identify it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode, to_display_rgb
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import read_header
from imgsim_assets.images.limits import MAX_PIXELS


@dataclass(frozen=True)
class ImageDigests:
    """The sha256 (hex) of an image's file and of its upright pixels; None where unknown."""

    sha256: str | None = None
    pixels: str | None = None


@dataclass(frozen=True)
class ImageRef:
    """An image that is loaded on demand; `name` is used in messages."""

    name: str
    load: Callable[[], bytes | Image.Image]

    def read(self, min_size: int | None = None) -> tuple[Image.Image, ImageDigests]:
        """Load the image as `load_rgb` does; ImageError when it cannot be read or decoded."""
        return load_rgb(self.open(), min_size)

    def open(self) -> bytes | Image.Image:
        """The bytes of the file, or the given pixels; ImageError when it cannot be read."""
        try:
            return self.load()
        except FileNotFoundError as error:
            raise ImageError("missing_file", f"there is no file {self.name!r}") from error
        except (OSError, CorruptFileError) as error:
            raise ImageError("unreadable_file", str(error)) from error


def load_rgb(
    content: bytes | Image.Image, min_size: int | None
) -> tuple[Image.Image, ImageDigests]:
    """An image upright and in RGB, with its digests.

    With `min_size` (pixels), a file may be decoded at a reduced size, as by
    images.decode.decode; the digest of its pixels is then unknown. Raises ImageError when it
    cannot be decoded.
    """
    if isinstance(content, Image.Image):
        image = to_display_rgb(content)
        return image, ImageDigests(pixels=_pixel_digest(image))
    image = decode(content, min_size=min_size)
    header = read_header(content, MAX_PIXELS)
    is_full_size = header.width * header.height == image.width * image.height
    return image, ImageDigests(file_digest(content), _pixel_digest(image) if is_full_size else None)


def size_of(content: bytes | Image.Image) -> tuple[int, int]:
    """Width and height in pixels; raises ImageError for bytes that are not an image."""
    if isinstance(content, Image.Image):
        return content.size
    header = read_header(content, MAX_PIXELS)
    return header.width, header.height


def failed_image(name: str, status: str, detail: str) -> ImageRef:
    """An image that raises ImageError when it is read."""

    def load() -> bytes:
        raise ImageError(status, detail)

    return ImageRef(name, load)


def file_digest(data: bytes) -> str:
    """The sha256 (hex) of a file."""
    return hashlib.sha256(data).hexdigest()


def _pixel_digest(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
