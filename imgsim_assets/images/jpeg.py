"""JPEGs that any decoder may decode: their pixels, as they are stored, are the image."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgsim_assets.images.decode import is_seen_as_stored
from imgsim_assets.images.header import open_image, plain_jpeg_header
from imgsim_assets.images.limits import MAX_PIXELS

_START, _END = b"\xff\xd8", b"\xff\xd9"
# A decoder that does not look at these takes red, green and blue for lightness and color.
_RED_GREEN_BLUE = (*b"RGB",)


@dataclass(frozen=True)
class Jpeg:
    """The bytes of an image that is still to be decoded."""

    data: bytes


def as_plain_jpeg(data: bytes, min_size: int) -> Jpeg | None:
    """The image, where decoding it in full is all that `images.decode.decode` would do to it.

    That is a complete JPEG in YCbCr or gray that is stored upright and in sRGB, that `decode`
    would not reduce to `min_size` pixels, and that has at most 4 x `min_size` on the longer side.
    The bytes alone decide. None for everything else, damaged files among it.
    """
    # Scans hold no such bytes but at their end, so that a file that was cut short lacks them.
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    header = plain_jpeg_header(data, MAX_PIXELS)
    size = (header.width, header.height) if header is not None else _size_of_odd(data)
    if size is None or min(size) >= 2 * min_size or max(size) > 4 * min_size:
        return None
    return Jpeg(data)


def _size_of_odd(data: bytes) -> tuple[int, int] | None:
    """The size of a JPEG with EXIF, a profile or the like, if these change nothing."""
    try:
        with open_image(data, MAX_PIXELS) as image:
            alike = image.format == "JPEG" and _is_ycbcr_or_gray(image) and is_seen_as_stored(image)
            return image.size if alike else None
    except Exception:
        return None  # what is wrong with it is found when it is decoded


def _is_ycbcr_or_gray(image: Image.Image) -> bool:
    """Whether libjpeg takes an opened JPEG for gray, or for lightness and two colors."""
    if image.mode == "L":
        return True
    # By Adobe's marker or the names of the components, as in libjpeg's default_decompress_parms.
    components = tuple(layer[0] for layer in getattr(image, "layer", ()))
    is_rgb = image.info.get("adobe_transform") == 0 or components == _RED_GREEN_BLUE
    return image.mode == "RGB" and not is_rgb
