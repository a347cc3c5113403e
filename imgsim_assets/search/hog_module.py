"""The encoder hog_color as a torch module, so that it can be written into an ONNX graph."""

from __future__ import annotations

import math

import torch
from torch import nn

from imgsim_assets.encoders import hog_color

_ORIENTATIONS = 9
_CELLS = 8
_COLOR_CELLS = 7
_COLOR_WEIGHT = 0.6
_DAMPING = 0.02
_FLAT = 1e-3
_LUMA = (0.299, 0.587, 0.114)


class HogModule(nn.Module):
    """(n, 112, 112, 3) bytes to (n, 772) float32, as encoders.hog_color computes them.

    A parity check compares the two whenever a model is exported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor(_LUMA))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The features of a batch."""
        pixels = image.float() / 255
        gray = pixels @ self.get_buffer("luma")
        shape = _unit(_gradients(gray))
        color = _unit(_colors(pixels, gray))
        return torch.cat([shape, _COLOR_WEIGHT * color], dim=1)


def _gradients(gray: torch.Tensor) -> torch.Tensor:
    dx = nn.functional.pad(gray[:, :, 2:] - gray[:, :, :-2], (1, 1))
    dy = nn.functional.pad(gray[:, 2:] - gray[:, :-2], (0, 0, 1, 1))
    strength = torch.sqrt(dx * dx + dy * dy)
    turned = torch.atan2(dy, dx)
    angle = torch.where(turned < 0, turned + math.pi, turned) * (_ORIENTATIONS / math.pi)
    # Each bin's share falls off linearly around the circle of orientations.
    bins = torch.arange(_ORIENTATIONS, dtype=gray.dtype).view(1, -1, 1, 1)
    apart = torch.abs(angle.unsqueeze(1) - bins)
    apart = torch.minimum(apart, _ORIENTATIONS - apart)
    shares = torch.clamp(1 - apart, min=0) * strength.unsqueeze(1)
    side = hog_color.SIZE // _CELLS
    cells = nn.functional.avg_pool2d(shares, side) * side**2
    cells = cells / (torch.linalg.vector_norm(cells, dim=1, keepdim=True) + _DAMPING)
    rows: torch.Tensor = cells.permute(0, 2, 3, 1).flatten(1)
    return rows


def _colors(pixels: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    light = gray - gray.mean(dim=(1, 2), keepdim=True)
    channels = torch.stack([light, *((pixels[..., at] - gray) for at in range(3))], dim=1)
    means = nn.functional.avg_pool2d(channels, hog_color.SIZE // _COLOR_CELLS)
    return means.permute(0, 2, 3, 1).flatten(1)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    flat = norms < _FLAT
    return torch.where(flat, torch.zeros_like(rows), rows / torch.where(flat, 1.0, norms))
