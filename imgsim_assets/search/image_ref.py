"""An image that somebody named or handed over: where its pixels come from, and its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode, to_display_rgb
from imgsim_assets.images.header import ImageError, read_header
from imgsim_assets.images.limits import MAX_PIXELS

MISSING = "missing_file"
NO_IMAGE = "no_image"


@dataclass(frozen=True)
class ImageDigests:
    """What an image is recognized by: the sha256 of its file, and of its upright pixels.

    Either is None where it is not known.
    """

    sha256: str | None = None
    pixels: str | None = None


@dataclass(frozen=True)
class ImageRef:
    """An image that is read when it is needed; `name` is what messages call it."""

    name: str
    load: Callable[[], bytes | Image.Image]

    def read(self, min_size: int | None = None) -> tuple[Image.Image, ImageDigests]:
        """The image upright and in RGB, with its keys; ImageError when it cannot be had.

        With `min_size`, a file may be decoded at a reduced size, as by images.decode.decode; its
        pixels are then no key.
        """
        return load_rgb(self.loaded(), min_size)

    def loaded(self) -> bytes | Image.Image:
        """The bytes of its file, or the pixels that were handed over; ImageError without either."""
        try:
            return self.load()
        except FileNotFoundError as error:
            raise ImageError(MISSING, f"there is no {self.name}") from error
        except (OSError, CorruptFileError) as error:
            raise ImageError("unreadable_file", str(error)) from error


def load_rgb(loaded: bytes | Image.Image, min_size: int | None) -> tuple[Image.Image, ImageDigests]:
    """What an image loaded, as `ImageRef.read` gives it."""
    if isinstance(loaded, Image.Image):
        image = to_display_rgb(loaded)
        return image, ImageDigests(pixels=_pixel_digest(image))
    image = decode(loaded, min_size=min_size)
    header = read_header(loaded, MAX_PIXELS)
    is_whole = header.width * header.height == image.width * image.height
    return image, ImageDigests(file_digest(loaded), _pixel_digest(image) if is_whole else None)


def missing(name: str) -> ImageRef:
    """A place in a dataset where there is no image: null."""

    def load() -> bytes:
        raise ImageError(NO_IMAGE, "the value is null")

    return ImageRef(name, load)


def file_digest(data: bytes) -> str:
    """The sha256 by which a file is recognized."""
    return hashlib.sha256(data).hexdigest()


def _pixel_digest(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
