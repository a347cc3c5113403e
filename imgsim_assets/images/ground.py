"""The ground that shows behind the transparent parts of an image: white, or black.

White is what web pages and product photographs have, so that a cutout looks like its photograph.
A white logo vanishes on it. The ground is black where the edges that an image has on black are
more than MIN_EDGE_RATIO times as strong as those it has on white: a logo of a single gray lighter
than 227 of 255, but not a white garment, whose folds and shaded outline show on white as well.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Color = tuple[int, int, int]
WHITE: Final[Color] = (255, 255, 255)
BLACK: Final[Color] = (0, 0, 0)
MIN_EDGE_RATIO = 8
# Edges are measured among at most so many pixels each way, at equal distances.
_MAX_EDGE = 256


def sample(image: Image.Image) -> Image.Image:
    """The pixels of an image, or some of them, by which `choose_ground` judges it."""
    width, height = (min(edge, _MAX_EDGE) for edge in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST)


def choose_ground(rgba: Image.Image) -> Color:
    """The ground on which an image shows.

    Args:
        rgba: the `sample` of the image, in mode RGBA.
    """
    # With colors multiplied by alpha the image is as it shows on black.
    pixels = np.asarray(rgba.convert("RGBa")).astype(np.int32)
    on_black, alpha = pixels[..., :3], pixels[..., 3:]
    on_white = on_black + 255 - alpha
    return BLACK if _edges(on_black) > MIN_EDGE_RATIO * _edges(on_white) else WHITE


def _edges(pixels: NDArray[np.int32]) -> int:
    """The total variation: how much all neighboring pixels differ."""
    return sum(int(np.abs(np.diff(pixels, axis=axis)).sum()) for axis in (0, 1))
