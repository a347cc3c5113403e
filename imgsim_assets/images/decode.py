"""Decoding a picture the way a person sees it: upright, on white, in sRGB, 8 bits."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

from imgsim_assets.images.header import ImageError, open_image

# Part of every encoder's fingerprint: raise it when the same bytes decode to other pixels.
DECODER_VERSION = 1
MAX_PIXELS = 50_000_000

_SRGB = ImageCms.createProfile("sRGB")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame as an 8-bit RGB image.

    EXIF orientation is applied, transparency is laid on white, 16-bit and floating values are
    scaled to 8 bits, and colours with a profile of their own are brought to sRGB. Raises
    ImageError with the status not_image, unsupported_format, too_many_pixels, truncated or
    undecodable.
    """
    image = open_image(data, max_pixels)
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except OSError as error:
        status = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise ImageError(status, str(error)) from error
    except Exception as error:
        # Broken streams surface as SyntaxError, ValueError, struct.error and more.
        raise ImageError("undecodable", f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return _from_profile(image) or image.convert("RGB")


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


def _from_profile(image: Image.Image) -> Image.Image | None:
    """The image in sRGB by its embedded profile, None when there is nothing to convert."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # A damaged profile is no reason to lose the picture: take its values as they are.
        return None
