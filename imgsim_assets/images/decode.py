"""Decoding an image the way a person sees it: upright, on white, in sRGB, 8 bits."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageCms

from imgsim_assets.images.header import ImageError, open_image
from imgsim_assets.images.limits import MAX_PIXELS

# Part of every encoder's fingerprint: raise it when the same bytes decode to other pixels.
DECODER_VERSION = 2

# EXIF orientation to the turn that undoes it.
_TURNS = {
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
    """The first frame as an 8-bit RGB image.

    EXIF orientation is applied, transparency is laid on white, 16-bit and floating values are
    scaled to 8 bits, and colors with a profile of their own are brought to sRGB. With
    `min_size`, a JPEG whose sides both have at least twice that many pixels may come smaller, by
    1/2, 1/4 or 1/8, but not below `min_size`: libjpeg then skips the high frequencies, several
    times as fast. Raises ImageError with the status not_image, unsupported_format,
    too_many_pixels, truncated or decode_error.
    """
    return to_display_rgb(open_image(data, max_pixels), min_size=min_size)


def to_display_rgb(image: Image.Image, *, min_size: int | None = None) -> Image.Image:
    """An image that Pillow has opened, the way `decode` gives it.

    Raises ImageError with the status truncated or decode_error.
    """
    try:
        if min_size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_size, min_size))
        image.load()
        return _upright(image, _to_rgb(image))
    except Exception as error:
        # Broken streams surface as OSError, SyntaxError, ValueError, struct.error and more.
        is_cut = "truncated" in str(error).lower() or "incomplete" in str(error).lower()
        detail = f"{type(error).__name__}: {error}"
        raise ImageError("truncated" if is_cut else "decode_error", detail) from error


def is_seen_as_stored(image: Image.Image) -> bool:
    """Whether `to_display_rgb` takes the pixels of an opened RGB or gray image as they are stored."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    profile = image.info.get("icc_profile")
    return _turn(image) is None and (not profile or _is_srgb(profile))


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """The RGB image turned as the original's EXIF says."""
    turn = _turn(image)
    return rgb.transpose(turn) if turn is not None else rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What undoes the orientation that EXIF tells; EXIF that is damaged tells none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return None
    return _TURNS.get(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        colors = _from_profile(rgba.convert("RGB"), image.info.get("icc_profile"))
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        return Image.composite(colors, white, rgba.getchannel("A"))
    plain = image if image.mode in ("RGB", "CMYK") else image.convert("RGB")
    return _from_profile(plain, image.info.get("icc_profile"))


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit values by their high byte, other ranges by their largest value.

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


def _from_profile(image: Image.Image, profile: object) -> Image.Image:
    """The image in sRGB by a profile that came with it, or as it is without a usable one."""
    if not isinstance(profile, bytes) or not profile or image.mode not in ("RGB", "CMYK"):
        return image.convert("RGB")
    if image.mode == "RGB" and _is_srgb(profile):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # A damaged profile is no reason to lose the image: take its values as they are.
        converted = None
    return converted or image.convert("RGB")


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile, by its own description, is that of sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(source).lower()
    except (ImageCms.PyCMSError, OSError):
        return False
