"""Limits on images, without importing an imaging library."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

# Pillow refuses images with more.
MAX_PIXELS: Final = 178_956_970
# Memory that decoding may take: four bytes for each pixel and channel.
_MAX_BYTES_PER_PIXEL: Final = 12
# What decoders of these formats take at their peak, where it is more.
BYTES_PER_PIXEL: Final[Mapping[str, int]] = {
    "AVIF": 30,
    "JPEG2000": 40,
    "WEBP": 24,
}


def max_pixels_of(name: str, max_pixels: int) -> int:
    """The limit of a format: fewer pixels where its decoder takes more memory for each."""
    return max_pixels * _MAX_BYTES_PER_PIXEL // BYTES_PER_PIXEL.get(name, _MAX_BYTES_PER_PIXEL)


def can_open_heif() -> bool:
    """Whether the extra that opens HEIC and HEIF images is installed."""
    return find_spec("pillow_heif") is not None
