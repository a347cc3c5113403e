"""The torch modules that an ONNX export is traced from."""

from __future__ import annotations

import math

import torch
from torch import nn

from imgsim_assets.encoders import hog_color
from imgsim_assets.encoders.torch_encoder import TorchEncoder

# The parameters of encoders.hog_color.
_ORIENTATIONS = 9
_CELLS = 8
_COLOR_CELLS = 7
_COLOR_WEIGHT = 0.6
_DAMPING = 0.02
_FLAT = 1e-3
_LUMA = (0.299, 0.587, 0.114)


class PreparedModule(nn.Module):
    """Prepared images to features: a torch encoder with its normalization."""

    def __init__(self, encoder: TorchEncoder) -> None:
        super().__init__()
        self.module = encoder.unfused_module()
        self.normalizes = encoder._mean.numel() > 0
        self.register_buffer("mean", encoder._mean.to("cpu"))
        self.register_buffer("deviation", encoder._deviation.to("cpu"))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Prepared images (n, ...) to features (n, d) float32."""
        if self.normalizes:
            image = image.permute(0, 3, 1, 2).float() / 255
            image = (image - self.get_buffer("mean")) / self.get_buffer("deviation")
        features: torch.Tensor = self.module(image)
        return features.flatten(1).float()


class NearestModule(nn.Module):
    """Prepared images to the rows and distances of the k nearest reference items.

    Args:
        features: prepared images to features.
        references: (rows, d), the vectors of the items' images.
        k: the number of items.
        unit: whether vectors get length 1.
        cosine: whether the distance is 1 - cosine.
        items: (rows,) int64, the item of each row; None where each item has one.
        row_k: how many of the nearest rows are certain to have the k nearest items.
    """

    def __init__(
        self,
        features: nn.Module,
        references: torch.Tensor,
        k: int,
        *,
        unit: bool,
        cosine: bool,
        items: torch.Tensor | None = None,
        row_k: int | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.k = k
        self.row_k = row_k or k
        self.unit = unit
        self.cosine = cosine
        self.register_buffer("references", references)
        self.register_buffer("halves", references.square().sum(dim=1) / 2)
        self.register_buffer("items", items)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (n, k) int64 and distances (n, k) float32, the nearest first."""
        vectors = self.features(image)
        if self.unit or self.cosine:
            lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors = vectors / lengths.clamp(min=1e-12)
        references = self.get_buffer("references")
        # The score decreases as |v - r|^2 increases.
        scores = vectors @ references.T - self.get_buffer("halves")
        rows = torch.topk(scores, self.row_k, dim=1).indices
        if self.items is not None:
            rows = _first_of_items(rows, self.get_buffer("items"), self.k)
        # From the differences, since a product loses the digits of small distances.
        squares = (vectors.unsqueeze(1) - references[rows]).square().sum(dim=2)
        return rows, squares / 2 if self.cosine else torch.sqrt(squares)


def _first_of_items(rows: torch.Tensor, items: torch.Tensor, k: int) -> torch.Tensor:
    """Of rows (n, p), the nearest first, the first one of each of the k nearest items (n, k)."""
    item = items[rows]
    count = rows.shape[1]
    is_earlier = torch.ones(count, count, dtype=torch.bool).tril(-1)
    is_repeated = ((item.unsqueeze(2) == item.unsqueeze(1)) & is_earlier).any(dim=2)
    place = torch.arange(count) + count * is_repeated
    return rows.gather(1, torch.topk(place, k, dim=1, largest=False).indices)


class HogModule(nn.Module):
    """The encoder hog_color; every export compares the two."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor(_LUMA))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (n, 112, 112, 3) uint8 to features (n, 772) float32."""
        pixels = image.float() / 255
        gray = pixels @ self.get_buffer("luma")
        shape = _unit(_gradients(gray))
        color = _unit(_colors(pixels, gray))
        return torch.cat([shape, _COLOR_WEIGHT * color], dim=1)


def _gradients(gray: torch.Tensor) -> torch.Tensor:
    dx = nn.functional.pad(gray[:, :, 2:] - gray[:, :, :-2], (1, 1))
    dy = nn.functional.pad(gray[:, 2:] - gray[:, :-2], (0, 0, 1, 1))
    strength = torch.sqrt(dx * dx + dy * dy)
    signed = torch.atan2(dy, dx)
    angle = torch.where(signed < 0, signed + math.pi, signed) * (_ORIENTATIONS / math.pi)
    # Interpolate linearly between neighboring bins of the circle of orientations.
    bins = torch.arange(_ORIENTATIONS, dtype=gray.dtype).view(1, -1, 1, 1)
    offset = torch.abs(angle.unsqueeze(1) - bins)
    offset = torch.minimum(offset, _ORIENTATIONS - offset)
    votes = torch.clamp(1 - offset, min=0) * strength.unsqueeze(1)
    cell_px = hog_color.SIZE // _CELLS
    cells = nn.functional.avg_pool2d(votes, cell_px) * cell_px**2
    cells = cells / (torch.linalg.vector_norm(cells, dim=1, keepdim=True) + _DAMPING)
    rows: torch.Tensor = cells.permute(0, 2, 3, 1).flatten(1)
    return rows


def _colors(pixels: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    light = gray - gray.mean(dim=(1, 2), keepdim=True)
    channels = torch.stack([light, *((pixels[..., channel] - gray) for channel in range(3))], dim=1)
    means = nn.functional.avg_pool2d(channels, hog_color.SIZE // _COLOR_CELLS)
    return means.permute(0, 2, 3, 1).flatten(1)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    flat = norms < _FLAT
    return torch.where(flat, torch.zeros_like(rows), rows / torch.where(flat, 1.0, norms))
