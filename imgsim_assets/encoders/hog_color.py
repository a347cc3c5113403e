"""hog_color: an encoder without weights, from the shape and the colors of an image.

Histograms of oriented gradients (Dalal and Triggs, "Histograms of Oriented Gradients for Human
Detection", CVPR 2005) on a grid, beside a coarse grid of lightness and color. It finds
recompressed, resized, recolored, captioned and slightly cropped copies. It does not recognize
what an image shows, and a mirrored or padded copy counts as another image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Increment when the same image gives another vector.
VERSION = 1
SIZE = 112
DIM = 8 * 8 * 9 + 7 * 7 * 4
# Measured on edited copies among 4,494 photographs of objects; see docs/encoders.md.

_ORIENTATIONS = 9
_CELLS = 8
_COLOR_CELLS = 7
_COLOR_WEIGHT = 0.6
_DAMPING = 0.02
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Floats = NDArray[np.float32]


class HogColor:
    """The hog_color encoder; it holds no state."""

    dim = DIM
    # Gradients need more detail than networks: images are decoded at twice the size.
    input_size = 2 * SIZE

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The whole image resized to a square: (112, 112, 3) uint8."""
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def replicas(self, cores: int) -> list[HogColor]:
        """Itself for every core: NumPy computes on one."""
        return [self] * cores

    def encode(self, batch: NDArray[np.uint8]) -> Floats:
        """(n, 112, 112, 3) uint8 to (n, 772) float32.

        An image of one gray becomes zeros; an image of one color has no gradients.
        """
        pixels: Floats = batch.astype(np.float32) / np.float32(255)
        gray: Floats = pixels @ _LUMA
        shape = _unit(_gradients(gray))
        color = _unit(_colors(pixels, gray))
        return np.concatenate([shape, np.float32(_COLOR_WEIGHT) * color], axis=1)


def _gradients(gray: Floats) -> Floats:
    """Orientation histograms of cells, each divided by its norm: (n, 576)."""
    dx = np.zeros_like(gray)
    dy = np.zeros_like(gray)
    dx[:, :, 1:-1] = gray[:, :, 2:] - gray[:, :, :-2]
    dy[:, 1:-1] = gray[:, 2:] - gray[:, :-2]
    strength = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx) % np.float32(np.pi) * np.float32(_ORIENTATIONS / np.pi)
    lower = np.floor(angle)
    upper_weight = angle - lower
    lower = lower.astype(np.int8) % _ORIENTATIONS
    upper = (lower + 1) % _ORIENTATIONS
    cells = np.stack(
        [
            _cell_means(
                strength
                * (np.where(lower == bin_, 1 - upper_weight, 0) + upper_weight * (upper == bin_)),
                _CELLS,
            )
            for bin_ in range(_ORIENTATIONS)
        ],
        axis=-1,
    )
    cells *= (SIZE // _CELLS) ** 2
    cells /= np.linalg.norm(cells, axis=-1, keepdims=True) + np.float32(_DAMPING)
    return cells.reshape(len(gray), -1)


def _colors(pixels: Floats, gray: Floats) -> Floats:
    """Lightness about its mean, and each channel's distance from gray, by cells: (n, 196)."""
    channels = [gray - gray.mean(axis=(1, 2), keepdims=True)]
    channels += [pixels[..., channel] - gray for channel in range(3)]
    means = [_cell_means(channel, _COLOR_CELLS) for channel in channels]
    return np.stack(means, axis=-1).reshape(len(gray), -1)


def _cell_means(values: Floats, cells: int) -> Floats:
    size = SIZE // cells
    means: Floats = values.reshape(-1, cells, size, cells, size).mean(axis=(2, 4))
    return means


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # The rounding errors of a flat image must not become a unit vector.
    flat = norms < 1e-3
    return np.where(flat, np.float32(0), rows / np.where(flat, np.float32(1), norms))
