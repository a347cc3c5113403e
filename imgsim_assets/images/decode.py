"""Decoding images as people see them: upright, on white, in sRGB with 8 bits per channel."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageCms

from imgsim_assets.images.header import ImageError, open_image
from imgsim_assets.images.limits import MAX_PIXELS

# Part of encoder fingerprints: increment it when the same bytes decode to other pixels.
DECODER_VERSION = 2

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


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, *, min_size: int | None = None
) -> Image.Image:
    """Decode the first frame of an image file to 8-bit RGB.

    Applies the EXIF orientation, composes transparency on white, scales 16-bit and floating
    values to 8 bits, and converts colors with an embedded profile to sRGB.

    Args:
        data: an image file of one of `header.FORMATS`, or HEIC where its extra is installed.
        max_pixels: the largest product of width and height.
        min_size: lets a JPEG whose edges have at least twice as many pixels be decoded at 1/2,
            1/4 or 1/8 of its size, with edges of at least `min_size`; several times as fast,
            since libjpeg skips the high frequencies.

    Raises:
        ImageError: with the status not_image, unsupported_format, too_many_pixels, truncated or
            decode_error.
    """
    return to_display_rgb(open_image(data, max_pixels), min_size=min_size)


def to_display_rgb(image: Image.Image, *, min_size: int | None = None) -> Image.Image:
    """Convert an image that Pillow has opened as `decode` does.

    Raises:
        ImageError: with the status truncated or decode_error.
    """
    try:
        if min_size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_size, min_size))
        image.load()
        rgb = _to_rgb(image)
        transposition = _transposition(image)
        return rgb.transpose(transposition) if transposition is not None else rgb
    except Exception as error:
        # Damaged streams raise OSError, SyntaxError, ValueError, struct.error and more.
        is_cut = "truncated" in str(error).lower() or "incomplete" in str(error).lower()
        detail = f"{type(error).__name__}: {error}"
        raise ImageError("truncated" if is_cut else "decode_error", detail) from error


def is_displayed_as_stored(image: Image.Image) -> bool:
    """Whether `to_display_rgb` keeps the stored pixels of an opened RGB or gray image."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    profile = image.info.get("icc_profile")
    return _transposition(image) is None and (not profile or _is_srgb(profile))


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """What undoes the EXIF orientation; None for damaged EXIF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return None
    return _TRANSPOSITIONS.get(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        colors = _convert_to_srgb(rgba.convert("RGB"), image.info.get("icc_profile"))
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        return Image.composite(colors, white, rgba.getchannel("A"))
    plain = image if image.mode in ("RGB", "CMYK") else image.convert("RGB")
    return _convert_to_srgb(plain, image.info.get("icc_profile"))


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit values by their high byte, other ranges by their largest value.

    Pillow's own conversion clips everything above 255 to white.
    """
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
    top = float(values.max(initial=0.0))
    if image.mode == "F" and top <= 1.0:
        scale = 255.0
    elif top > 65535.0:
        scale = 255.0 / top
    elif top > 255.0 or image.mode.startswith("I;16"):
        scale = 1.0 / 256.0
    else:
        scale = 1.0
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))


def _convert_to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """The image in sRGB, by its embedded profile; unchanged without a usable one."""
    if not isinstance(profile, bytes) or not profile or image.mode not in ("RGB", "CMYK"):
        return image.convert("RGB")
    if image.mode == "RGB" and _is_srgb(profile):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # A damaged profile does not lose the image: its values count as sRGB.
        converted = None
    return converted or image.convert("RGB")


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile describes itself as sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(source).lower()
    except (ImageCms.PyCMSError, OSError):
        return False
