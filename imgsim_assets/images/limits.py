"""Limits on pictures, known without loading an imaging library."""

from __future__ import annotations

from typing import Final

# Pillow itself refuses pictures with more.
MOST_PIXELS: Final = 178_956_970
