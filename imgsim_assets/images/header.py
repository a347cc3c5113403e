"""Format and size of an image from its first bytes, without decoding it."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from PIL import Image, ImageFile

from imgsim_assets.images.containers import gif, ico, jpeg, jpeg2000, png, tiff, webp
from imgsim_assets.images.errors import ImageError, cut_header, too_complex
from imgsim_assets.images.formats import HEIF, image_format, not_decodable
from imgsim_assets.images.limits import BYTES_PER_PIXEL, MAX_PIXELS, can_open_heif, max_pixels_of

# Key of `info`: where a frame that is smaller than its image lies.
CANVAS: Final = "canvas"

# The first bytes of a JPEG with a JFIF header, and the markers of tables, frame, comment and scan.
_PLAIN_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
_PLAIN_SEGMENTS = frozenset({0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xE0, 0xFE})
_MAX_SEGMENTS = 64
_PIXELS_ONLY: Mapping[str, Callable[[bytes], bytes]] = {
    "GIF": gif.first_frame,
    "JPEG": jpeg.pixel_segments,
    "TIFF": tiff.pixel_tags,
    "WEBP": webp.pixel_chunks,
}
# Formats that Pillow opens only in full, so that a cut file looks like any other damage.
_OPENED_IN_FULL = frozenset({"AVIF", HEIF, "WEBP"})
# A shorter file of any format has no pixels.
_MIN_BYTES = 64
# Decoders of Pillow that are written in Python, and how many values they may decode.
_WITH_SLOW_DECODERS = ("BMP", "PPM")
_SLOW_DECODERS = frozenset({"bmp_rle", "ppm", "ppm_plain"})
_MAX_SLOW_VALUES = 2**22

# By Pillow's name of gray values with fewer bits, their step in 8 bits.
_GRAY_SCALES = {"L;2": 85, "L;4": 17}

# Warnings about damaged metadata would flood the logs, and large images have a limit of ours.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Header(NamedTuple):
    """Pillow's name of the format, and the size in pixels before the EXIF rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes, max_pixels: int) -> Header:
    """Identify an image.

    Raises:
        ImageError: with the status not_image, unsupported_format, too_many_pixels, too_complex
            or truncated.
    """
    header = plain_jpeg_header(data, max_pixels)
    if header is not None:
        return header
    name = image_format(data)
    with open_image(data, max_pixels) as image:
        canvas = image.info.get(CANVAS)
        return Header(str(name), *(canvas.size if canvas else image.size))


def plain_jpeg_header(data: bytes, max_pixels: int) -> Header | None:
    """The header of a JPEG with only the common segments, in a fifth of Pillow's time.

    Returns:
        The header, or None where `read_header` has to decide: for a file with other segments
        (EXIF, profiles, several images), and for one that is refused or repaired.
    """
    size = _plain_jpeg_size(data)
    if size is not None and 0 < size[0] * size[1] <= min(max_pixels, MAX_PIXELS):
        return Header("JPEG", *size)
    return None


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    if not data.startswith(_PLAIN_JPEG):
        return None
    size = None
    is_progressive, colors = False, 0
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
                if size and (is_progressive or data[at + 4] != colors):
                    jpeg.check_scans(data, at, size[0] * size[1])
                return size
            if marker == 0xDB:  # tables of 64 bytes each, behind a byte with the number of each
                if length % 65 != 2 or any(data[table] > 15 for table in range(at + 4, end, 65)):
                    return None
            elif marker in (0xC0, 0xC2):
                colors, is_progressive = data[at + 9], marker == 0xC2
                if size or data[at + 4] != 8 or colors not in (1, 3) or length != 8 + 3 * colors:
                    return None
                size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            elif marker == 0xE0 and at != 2:
                return None
            at = end
    except (IndexError, ImageError):  # cut short, or with too many scans
        pass
    return None


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Open without decoding, and without any metadata but the profile and the orientation.

    Raises:
        ImageError: as `read_header` does.
    """
    name = image_format(data)
    if name is None:
        raise not_decodable(data)
    if name == HEIF:
        if not can_open_heif():
            raise ImageError("unsupported_format", "HEIC/HEIF; install 'imgsim_assets[heic]'")
        _register_heif()
    if name == "ICO":
        icon = ico.largest_icon(data)
        if image_format(icon) == "PNG":
            return open_image(icon, max_pixels)
        return _open(name, icon, max_pixels)
    if name == "PNG":
        data, canvas = png.pixel_chunks(data)
        image = _open(name, data, max_pixels)
        _scale_key(image)
        if canvas is not None:
            _check_pixels(name, *canvas.size, max_pixels)
            image.info[CANVAS] = canvas
        return image
    if name == "JPEG2000":
        jpeg2000.check_work(data)
    elif name == "JPEG" and _plain_jpeg_size(data) is None:
        data = jpeg.pixel_segments(data)
    elif name in _PIXELS_ONLY and name != "JPEG":
        data = _PIXELS_ONLY[name](data)
    return _open(name, data, max_pixels)


def _open(name: str, data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=(name,))
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:
        # Pillow's parsers raise a dozen types on broken headers.
        if name in _OPENED_IN_FULL:
            raise ImageError("truncated", f"a file of {name} that is cut or damaged") from error
        if len(data) < _MIN_BYTES:
            raise cut_header(name) from error
        raise ImageError("not_image", f"a {name} file with a damaged header") from error
    _check_pixels(name, image.width, image.height, max_pixels)
    if name in _WITH_SLOW_DECODERS:
        _check_decoder(name, image, len(data))
    return image


def _check_decoder(name: str, image: Image.Image, size: int) -> None:
    values = max(image.width * image.height * len(image.getbands()), size // 2)
    decoders = {tile[0] for tile in getattr(image, "tile", ())}
    if values > _MAX_SLOW_VALUES and decoders & _SLOW_DECODERS:
        raise too_complex(f"{values} values of a {name} variant that only a slow decoder reads")


def _scale_key(image: Image.Image) -> None:
    """Scale the transparent gray of a PNG to 8 bits, as Pillow scales its pixels."""
    key = image.info.get("transparency")
    if isinstance(key, int) and isinstance(image, ImageFile.ImageFile) and image.tile:
        image.info["transparency"] = key * _GRAY_SCALES.get(str(image.tile[0].args), 1)


def _check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    limit = max_pixels_of(name, max_pixels)
    if width * height > limit:
        raise ImageError(
            "too_many_pixels",
            f"{width} x {height} pixels are more than {limit}"
            + (f", the limit of {name}" if name in BYTES_PER_PIXEL else ""),
        )


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
