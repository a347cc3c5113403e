"""The network of `imgsim_copy`: MobileNetV2's features, GeM pooling and a whitening layer."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional

DIM = 256
SIDE = 144
_FEATURES = 1280
_MIN_ACTIVATION = 1e-6


class GeM(nn.Module):
    """Generalized mean pooling (Radenovic et al. 2018, "Fine-tuning CNN Image Retrieval")."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, c, h, w) to (n, c)."""
        powered = maps.float().clamp(min=_MIN_ACTIVATION).pow(self.power)
        return powered.mean(dim=(2, 3)).pow(1 / self.power)


class CopyNetwork(nn.Module):
    """Images (n, 3, SIDE, SIDE), normalized as for ImageNet, to unit rows (n, DIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.mobilenet_v2().features
        self.pool = GeM()
        self.head = nn.Linear(_FEATURES, DIM)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Unit rows (n, 1280) before the whitening layer."""
        return functional.normalize(self.pool(self.features(images)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return functional.normalize(self.head(self.pooled(images)))

    def load_published(self, weights: Path) -> None:
        """Start from torchvision's published MobileNetV2, a state dict."""
        state = torch.load(weights, map_location="cpu", weights_only=True)
        prefix = "features."
        body = {key.removeprefix(prefix): value for key, value in state.items() if prefix in key}
        self.features.load_state_dict(body)

    @torch.no_grad()
    def start_as_whitening(self, pooled: torch.Tensor) -> None:
        """Set the head to the PCA whitening of a sample of pooled rows (m, 1280), m >= DIM."""
        mean = pooled.mean(dim=0)
        _, values, directions = torch.linalg.svd(pooled - mean, full_matrices=False)
        scale = values / len(pooled) ** 0.5 + 0.01
        weight = directions[:DIM] / scale[:DIM, None]
        self.head.weight.copy_(weight)
        self.head.bias.copy_(-(weight @ mean))
