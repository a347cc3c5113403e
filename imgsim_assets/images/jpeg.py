"""Plain JPEGs: any decoder may decode them, since their stored pixels are the image."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgsim_assets.images.decode import is_displayed_as_stored
from imgsim_assets.images.header import open_image, plain_jpeg_header
from imgsim_assets.images.limits import MAX_PIXELS

_START, _END = b"\xff\xd8", b"\xff\xd9"
# Names of the components of an RGB JPEG; other decoders would read them as YCbCr.
_RGB_COMPONENTS = (*b"RGB",)
# Begins the index of a file of several images, in a segment near its start.
_IMAGE_INDEX = b"MPF\0"
_INDEX_BYTES = 2**18


@dataclass(frozen=True)
class Jpeg:
    """The bytes of a JPEG that is not decoded yet."""

    data: bytes


def as_plain_jpeg(data: bytes, min_size: int) -> Jpeg | None:
    """The JPEG, if `images.decode.decode` would only decode it in full.

    Such a file is complete, in YCbCr or gray, upright and in sRGB; `decode` would not reduce it
    to `min_size`, and its longer edge has at most 4 x `min_size` pixels.

    Args:
        data: any bytes; they alone decide.
        min_size: as of `decode`.

    Returns:
        The JPEG, or None for any other or damaged file.
    """
    # Scans have the end marker only at their end, so that a truncated file lacks it.
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    header = plain_jpeg_header(data, MAX_PIXELS)
    size = (header.width, header.height) if header is not None else _size_with_metadata(data)
    if size is None or min(size) >= 2 * min_size or max(size) > 4 * min_size:
        return None
    return Jpeg(data)


def _size_with_metadata(data: bytes) -> tuple[int, int] | None:
    """The size of a JPEG with EXIF, a profile or the like, if these do not change its pixels."""
    if _IMAGE_INDEX in data[:_INDEX_BYTES]:
        return None
    try:
        with open_image(data, MAX_PIXELS) as image:
            is_plain = image.format == "JPEG" and _is_ycbcr_or_gray(image)
            return image.size if is_plain and is_displayed_as_stored(image) else None
    except Exception:
        return None  # decoding it reports what is wrong


def _is_ycbcr_or_gray(image: Image.Image) -> bool:
    """Whether libjpeg decodes an opened JPEG as gray or as YCbCr."""
    if image.mode == "L":
        return True
    # By Adobe's marker or the component names, as libjpeg's default_decompress_parms does.
    components = tuple(layer[0] for layer in getattr(image, "layer", ()))
    is_rgb = image.info.get("adobe_transform") == 0 or components == _RGB_COMPONENTS
    return image.mode == "RGB" and not is_rgb
