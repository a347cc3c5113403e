"""A picture that somebody named or handed over: where its pixels come from, and its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import as_seen, decode
from imgsim_assets.images.header import ImageError

MISSING = "missing_file"
NO_PICTURE = "no_picture"


@dataclass(frozen=True)
class Keys:
    """What a picture is recognised by: the sha256 of its file, and of its upright pixels.

    Either is None where it is not known.
    """

    sha256: str | None = None
    pixels: str | None = None


@dataclass(frozen=True)
class Picture:
    """A picture that is read when it is needed; `name` is what messages call it."""

    name: str
    load: Callable[[], bytes | Image.Image]

    def read(self) -> tuple[Image.Image, Keys]:
        """The picture upright and in RGB, with its keys; ImageError when it cannot be had."""
        try:
            loaded = self.load()
        except FileNotFoundError as error:
            raise ImageError(MISSING, f"there is no {self.name}") from error
        except (OSError, CorruptFileError) as error:
            raise ImageError("unreadable_file", str(error)) from error
        if isinstance(loaded, Image.Image):
            image = as_seen(loaded)
            return image, Keys(pixels=_pixel_digest(image))
        image = decode(loaded)
        return image, Keys(hashlib.sha256(loaded).hexdigest(), _pixel_digest(image))


def missing(name: str) -> Picture:
    """A place in a dataset where there is no picture: null."""

    def load() -> bytes:
        raise ImageError(NO_PICTURE, "the value is null")

    return Picture(name, load)


def _pixel_digest(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
