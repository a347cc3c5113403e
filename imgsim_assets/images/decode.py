"""Decoding images as people see them: upright, on a ground, in sRGB with 8 bits per channel."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile

from imgsim_assets.images import libtiff
from imgsim_assets.images.containers.png import Canvas
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.ground import WHITE, Color, choose_ground, sample
from imgsim_assets.images.header import CANVAS, open_image
from imgsim_assets.images.limits import MAX_PIXELS
from imgsim_assets.images.repair import TRUNCATED, repair

# Part of encoder fingerprints: increment it when the same bytes decode to other pixels.
DECODER_VERSION = 4

# By EXIF orientation, the transposition that undoes it.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.createProfile("sRGB")
# Pixels that are converted at a time, so that what is between takes no memory to speak of.
_STRIP_PIXELS = 2**20
# Pillow's names of 16-bit colors: of each value the first byte, or the second one.
_HIGH_BYTES, _LOW_BYTES = "RGB;16B", "RGB;16L"
_Conversion = Callable[[Image.Image], Image.Image]


def decode(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    *,
    min_size: int | None = None,
    accept_truncated: bool = False,
) -> Image.Image:
    """Decode the first frame of an image file to 8-bit RGB.

    Applies the EXIF orientation, composes transparency on the ground on which the image shows
    (see `ground`), scales 16-bit and floating values to 8 bits, and converts colors with an
    embedded profile to sRGB. A JPEG that lacks only its end marker is complete.

    Args:
        data: an image file of one of `formats.FORMATS`, or HEIC where its extra is installed.
        max_pixels: the largest product of width and height.
        min_size: lets a JPEG whose edges have at least twice as many pixels be decoded at 1/2,
            1/4 or 1/8 of its size, with edges of at least `min_size`; several times as fast,
            since libjpeg skips the high frequencies.
        accept_truncated: decode what a truncated JPEG or PNG holds; `info` of the image then has
            the key TRUNCATED.

    Raises:
        ImageError: with the status not_image, unsupported_format, too_many_pixels, too_complex,
            truncated or decode_error.
    """
    image = open_image(data, max_pixels)
    try:
        return to_display_rgb(image, min_size=min_size, mask=_key_of_16_bits(image, data))
    except ImageError as error:
        if error.status != "truncated":
            raise
        repaired = repair(data, max_pixels, accept_truncated=accept_truncated)
        if repaired is None:
            raise
    rgb = to_display_rgb(open_image(repaired.data, max_pixels), min_size=min_size)
    if repaired.is_truncated:
        rgb.info[TRUNCATED] = True
    return rgb


def to_display_rgb(
    image: Image.Image, *, min_size: int | None = None, mask: Image.Image | None = None
) -> Image.Image:
    """Convert an image that Pillow has opened as `decode` does.

    Args:
        image: the image; its EXIF orientation counts, and none of other metadata.
        min_size: see `decode`.
        mask: 0 where the image is transparent, in place of what its file declares.

    Raises:
        ImageError: with the status truncated or decode_error.
    """
    with libtiff.collected_messages() as messages:
        return _displayed(image, min_size, mask, messages)


def _displayed(
    image: Image.Image,
    min_size: int | None,
    mask: Image.Image | None,
    messages: libtiff.Messages,
) -> Image.Image:
    try:
        if min_size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_size, min_size))
        transposition = _transposition(image)
        image.load()
        canvas = image.info.get(CANVAS)
        image = _in_8_bits(image)
        ground = _ground(image, mask)
        rgb = _to_rgb(image, mask, ground)
        rgb = _on_canvas(rgb, canvas, ground or WHITE)
        return rgb.transpose(transposition) if transposition is not None else rgb
    except Exception as error:
        # Damaged streams raise OSError, SyntaxError, ValueError, struct.error and more.
        is_cut = "truncated" in str(error).lower() or "incomplete" in str(error).lower()
        detail = f"{type(error).__name__}: {error}"
        if messages.count:
            detail += f" ({messages})"
        raise ImageError("truncated" if is_cut else "decode_error", detail) from error


def is_displayed_as_stored(image: Image.Image) -> bool:
    """Whether `to_display_rgb` keeps the stored pixels of an opened RGB or gray image."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    profile = image.info.get("icc_profile")
    return _transposition(image) is None and (not profile or _is_srgb(profile))


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """What undoes the EXIF orientation; None for damaged EXIF.

    `Image.getexif` would take the orientation of XMP as well, which browsers ignore.
    """
    try:
        stored = image.info.get("exif")
        if not stored or image.format == "TIFF":  # which Pillow turns upright itself
            return None
        tags = Image.Exif()
        tags.load(stored)
        return _TRANSPOSITIONS.get(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _on_canvas(rgb: Image.Image, canvas: Canvas | None, ground: Color) -> Image.Image:
    if canvas is None:
        return rgb
    whole = Image.new("RGB", canvas.size, ground)
    whole.paste(rgb, canvas.corner)
    return whole


# ---- modes --------------------------------------------------------------------------------


def _in_8_bits(image: Image.Image) -> Image.Image:
    """An image of deep or floating gray values scaled; any other as it is."""
    if image.mode.startswith("I") or image.mode == "F":
        return _in_strips(image, _scaling(image))
    return image


def _ground(image: Image.Image, mask: Image.Image | None) -> Color | None:
    """The ground behind the transparent parts of an image; None for one without transparency."""
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if mask is None and not has_alpha:
        return None
    return choose_ground(_rgba(sample(image), sample(mask) if mask is not None else None))


def _rgba(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """An image with its alpha, which is that of the mask if there is one."""
    if mask is None:
        return image.convert("RGBA")
    rgb = image.convert("RGB")
    rgb.putalpha(mask)
    return rgb


def _to_rgb(image: Image.Image, mask: Image.Image | None, ground: Color | None) -> Image.Image:
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else None
    if ground is not None:
        to_srgb = _to_srgb("RGB", profile)
        whole = Image.new("RGB", image.size, ground)
        for top, strip in _strips(image):
            box = (0, top, strip.width, top + strip.height)
            rgba = _rgba(strip, mask.crop(box) if mask is not None else None)
            whole.paste(to_srgb(rgba.convert("RGB")), (0, top), rgba.getchannel("A"))
        return whole
    if image.mode == "CMYK":
        return _in_strips(image, _to_srgb("CMYK", profile))
    if not profile or (image.mode == "RGB" and _is_srgb(profile)):
        return image.convert("RGB") if image.mode != "RGB" else image
    to_srgb = _to_srgb("RGB", profile)
    return _in_strips(image, lambda strip: to_srgb(strip.convert("RGB")))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of an image, each with its top row."""
    rows = max(_STRIP_PIXELS // image.width, 1)
    if image.height <= rows:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _in_strips(image: Image.Image, convert: _Conversion) -> Image.Image:
    """An image converted to another mode, a strip at a time."""
    whole: Image.Image | None = None
    for top, strip in _strips(image):
        converted = convert(strip)
        if strip is image:
            return converted
        if whole is None:
            whole = Image.new(converted.mode, image.size)
        whole.paste(converted, (0, top))
    return whole or image


def _scaling(image: Image.Image) -> _Conversion:
    """Scaling to 8 bits: of 16-bit values by their high byte, of others by their largest one.

    The result is RGB, and LA where the file declares a transparent gray.

    Pillow's own conversion clips everything above 255 to white.
    """
    key = image.info.get("transparency")
    top = 65535.0
    if not image.mode.startswith("I;16"):
        top = max(float(_finite(strip).max(initial=0.0)) for _, strip in _strips(image))
    if image.mode == "F" and top <= 1.0:
        scale = 255.0
    elif top > 65535.0:
        scale = 255.0 / top
    elif top > 255.0:
        scale = 1.0 / 256.0
    else:
        scale = 1.0

    def convert(strip: Image.Image) -> Image.Image:
        values = _finite(strip)
        gray = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
        if not isinstance(key, int):
            return gray.convert("RGB")
        gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
        return gray

    return convert


def _finite(strip: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(strip).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)


def _key_of_16_bits(image: Image.Image, data: bytes) -> Image.Image | None:
    """0 where a PNG of 16-bit colors has the color that its file declares transparent.

    Pillow keeps the high bytes of the colors, with which other colors may agree.
    """
    if image.format != "PNG" or not isinstance(image, ImageFile.ImageFile):
        return None
    key = image.info.get("transparency")
    if not isinstance(key, tuple) or image.tile[0].args != _HIGH_BYTES:
        return None
    equal = None
    for raw_mode, shift in ((_HIGH_BYTES, 8), (_LOW_BYTES, 0)):
        half = open_image(data, MAX_PIXELS)
        if isinstance(half, ImageFile.ImageFile):
            half.tile = [tile._replace(args=raw_mode) for tile in half.tile]
        half.load()
        bands = zip(half.split(), key, strict=True)
        for band, value in bands:
            same = band.point([255 * (level == value >> shift & 255) for level in range(256)])
            equal = same if equal is None else ImageChops.darker(equal, same)
    return ImageChops.invert(equal) if equal is not None else None


# ---- colors -------------------------------------------------------------------------------


def _to_srgb(mode: str, profile: bytes | None) -> _Conversion:
    """The conversion of RGB or CMYK images to sRGB, by their profile where it is usable."""
    transform = None
    if profile and not (mode == "RGB" and _is_srgb(profile)):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        except (ImageCms.PyCMSError, OSError):
            transform = None  # a damaged profile does not lose the image: its values count as sRGB

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform) if transform is not None else None
        return converted or image.convert("RGB")

    return convert


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile describes itself as sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(source).lower()
    except (ImageCms.PyCMSError, OSError):
        return False
