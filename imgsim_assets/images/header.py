"""Format and size of an image from its first bytes, without decoding it."""

from __future__ import annotations

import functools
import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from imgsim_assets.images.limits import MAX_PIXELS, can_open_heif

# Only the usual formats: each further decoder of Pillow is code that a hostile file may reach.
# Multi-picture JPEGs open as JPEG.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# The first bytes of a JPEG with a JFIF header, and the markers of tables, frame, comment and scan.
_PLAIN_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
_PLAIN_SEGMENTS = frozenset({0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xE0, 0xFE})
_MAX_SEGMENTS = 64

# Warnings about damaged metadata would flood the logs, and large images have a limit of ours.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(Exception):
    """Why bytes are not a usable image.

    Attributes:
        status: as tables record it.
        detail: the reason, for people.
    """

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class Header(NamedTuple):
    """Pillow's name of the format, and the size in pixels before the EXIF rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes, max_pixels: int) -> Header:
    """Identify an image.

    Raises:
        ImageError: with the status not_image, unsupported_format, too_many_pixels or, in
            formats that need the whole file, truncated.
    """
    header = plain_jpeg_header(data, max_pixels)
    if header is not None:
        return header
    with open_image(data, max_pixels) as image:
        return Header(str(image.format), image.width, image.height)


def plain_jpeg_header(data: bytes, max_pixels: int) -> Header | None:
    """The header of a JPEG with only the common segments, in a fifth of Pillow's time.

    Returns:
        The header, or None where `read_header` has to decide: for a file that Pillow inspects
        further (EXIF, profiles, several images), refuses or repairs.
    """
    size = _plain_jpeg_size(data)
    if size is not None and 0 < size[0] * size[1] <= min(max_pixels, MAX_PIXELS):
        return Header("JPEG", *size)
    return None


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    if not data.startswith(_PLAIN_JPEG):
        return None
    size = None
    at = 2
    try:
        for _ in range(_MAX_SEGMENTS):
            marker = data[at + 1]
            if data[at] != 0xFF or marker not in _PLAIN_SEGMENTS:
                return None
            length = data[at + 2] << 8 | data[at + 3]
            end = at + 2 + length
            if length < 2 or end > len(data):
                return None
            if marker == 0xDA:
                return size
            if marker == 0xDB:  # tables of 64 bytes each, behind a byte with the number of each
                if length % 65 != 2 or any(data[table] > 15 for table in range(at + 4, end, 65)):
                    return None
            elif marker in (0xC0, 0xC2):
                colors = data[at + 9]
                if size or data[at + 4] != 8 or colors not in (1, 3) or length != 8 + 3 * colors:
                    return None
                size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            elif marker == 0xE0 and at != 2:
                return None
            at = end
    except IndexError:  # cut short
        pass
    return None


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Open without decoding.

    Raises:
        ImageError: as `read_header` does.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_formats_for(data))
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError:
        raise _identification_error(data) from None
    except Exception as error:
        # Pillow's parsers raise a dozen types on broken headers.
        detail = f"{type(error).__name__}: {error}"
        raise _truncation_error(data) or ImageError("not_image", detail) from error
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{image.width} x {image.height} pixels are more than {max_pixels}",
        )
    return image


def _formats_for(data: bytes) -> tuple[str, ...]:
    """The formats to try; HEIC, an optional extra, only for a file that needs it."""
    if not _is_heif(data) or not can_open_heif():
        return FORMATS
    _register_heif()
    return (*FORMATS, "HEIF")


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _identification_error(data: bytes) -> ImageError:
    if _is_heif(data) and not can_open_heif():
        return ImageError("unsupported_format", "HEIC/HEIF; install 'imgsim_assets[heic]'")
    truncated = _truncation_error(data)
    if truncated is not None:
        return truncated
    start = _text_start(data)
    if start.startswith((b"<svg", b"<?xml")):
        return ImageError("unsupported_format", "SVG or XML")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return ImageError("not_image", "an HTML page")
    return ImageError("not_image", f"not one of {', '.join(FORMATS)}")


def _truncation_error(data: bytes) -> ImageError | None:
    """The error for a file that starts like a format which Pillow opens only in full."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageError("truncated", "a WebP file that is cut short or damaged")
    if data[4:12] == b"ftypavif" or _is_heif(data):
        return ImageError("truncated", "an AVIF or HEIC file that is cut short or damaged")
    return None


def _text_start(data: bytes) -> bytes:
    """The first bytes of a text after its byte order mark, blanks and comments."""
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    while start.startswith(b"<!--") and b"-->" in start:
        start = start.split(b"-->", 1)[1].lstrip()
    return start[:16].lower()
