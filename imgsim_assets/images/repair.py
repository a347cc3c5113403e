"""Files that end too early: whether their pixels are complete, and what is there of them."""

from __future__ import annotations

from typing import Final, NamedTuple

from PIL import Image

from imgsim_assets.images.containers import jpeg, png
from imgsim_assets.images.formats import image_format
from imgsim_assets.images.header import open_image

# Key of `info` of an image that a truncated file was decoded to.
TRUNCATED: Final = "truncated"
_END = b"\xff\xd9"
# Bits that a decoder reads as other pixels than the zeros that it assumes behind the end.
_FILL = b"\xaa\x55\x5a" * 12
_ROWS = 256


class Repaired(NamedTuple):
    """A file that can be decoded, and whether pixels are missing in it."""

    data: bytes
    is_truncated: bool


def repair(data: bytes, max_pixels: int, *, accept_truncated: bool) -> Repaired | None:
    """A file that ends too early, so that it can be decoded; None where it is not to be."""
    name = image_format(data)
    if name == "JPEG":
        pixels = data.rstrip(b"\xff")
        if _is_complete(pixels, max_pixels):
            return Repaired(pixels + _END, is_truncated=False)
        if accept_truncated and jpeg.has_pixels(pixels):
            return Repaired(pixels + _END, is_truncated=True)
    elif name == "PNG" and accept_truncated:
        filled = png.filled(data)
        return Repaired(filled, is_truncated=True) if filled is not None else None
    return None


def _is_complete(pixels: bytes, max_pixels: int) -> bool:
    """Whether no pixel of a JPEG without its end depends on bytes that would follow."""
    if not jpeg.has_all_scans(pixels):
        return False
    first, second = (open_image(pixels + tail + _END, max_pixels) for tail in (b"", _FILL))
    try:
        first.load()
        second.load()
    except OSError:
        return False
    return all(
        _rows(first, top).tobytes() == _rows(second, top).tobytes()
        for top in range(0, first.height, _ROWS)
    )


def _rows(image: Image.Image, top: int) -> Image.Image:
    return image.crop((0, top, image.width, min(top + _ROWS, image.height)))
