"""The encoder hog_color as a torch module, so that it can be written into an ONNX graph."""

from __future__ import annotations

import math

import torch
from torch import nn

from imgsim_assets.encoders import hog_color

_ORIENTATIONS = 9
_CELLS = 8
_COLOUR_CELLS = 7
_COLOUR_WEIGHT = 0.6
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
        grey = pixels @ self.get_buffer("luma")
        shape = _unit(_gradients(grey))
        colour = _unit(_colours(pixels, grey))
        return torch.cat([shape, _COLOUR_WEIGHT * colour], dim=1)


def _gradients(grey: torch.Tensor) -> torch.Tensor:
    dx = nn.functional.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))
    dy = nn.functional.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
    strength = torch.sqrt(dx * dx + dy * dy)
    turned = torch.atan2(dy, dx)
    angle = torch.where(turned < 0, turned + math.pi, turned) * (_ORIENTATIONS / math.pi)
    # Each bin's share falls off linearly around the circle of orientations.
    bins = torch.arange(_ORIENTATIONS, dtype=grey.dtype).view(1, -1, 1, 1)
    apart = torch.abs(angle.unsqueeze(1) - bins)
    apart = torch.minimum(apart, _ORIENTATIONS - apart)
    shares = torch.clamp(1 - apart, min=0) * strength.unsqueeze(1)
    side = hog_color.SIZE // _CELLS
    cells = nn.functional.avg_pool2d(shares, side) * side**2
    cells = cells / (torch.linalg.vector_norm(cells, dim=1, keepdim=True) + _DAMPING)
    rows: torch.Tensor = cells.permute(0, 2, 3, 1).flatten(1)
    return rows


def _colours(pixels: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    light = grey - grey.mean(dim=(1, 2), keepdim=True)
    channels = torch.stack([light, *((pixels[..., at] - grey) for at in range(3))], dim=1)
    means = nn.functional.avg_pool2d(channels, hog_color.SIZE // _COLOUR_CELLS)
    return means.permute(0, 2, 3, 1).flatten(1)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    flat = norms < _FLAT
    return torch.where(flat, torch.zeros_like(rows), rows / torch.where(flat, 1.0, norms))
