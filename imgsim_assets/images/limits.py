"""Limits on images, without importing an imaging library."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

# Pillow refuses images with more.
MAX_PIXELS: Final = 178_956_970


def can_open_heif() -> bool:
    """Whether the extra that opens HEIC and HEIF images is installed."""
    return find_spec("pillow_heif") is not None
