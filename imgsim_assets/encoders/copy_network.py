"""The network of `imgsim_copy`: MobileNetV2's features, GeM pooling and a linear layer."""

from __future__ import annotations

import torch
import torchvision
from torch import nn
from torch.nn import functional

DIM = 256
SIDE = 208
_FEATURES = 1280
_MIN_ACTIVATION = 1e-6


class GeM(nn.Module):
    """Generalized mean pooling (Radenovic et al. 2018, "Fine-tuning CNN Image Retrieval")."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, c, h, w) to (n, c), computed in float32."""
        powered = maps.float().clamp(min=_MIN_ACTIVATION).pow(self.power.float())
        return powered.mean(dim=(2, 3)).pow(1 / self.power.float()).type_as(maps)


class CopyNetwork(nn.Module):
    """Images (n, 3, SIDE, SIDE), normalized as for ImageNet, to unit rows (n, DIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.mobilenet_v2().features
        self.pool = GeM()
        self.head = nn.Linear(_FEATURES, DIM)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Unit rows (n, 1280) before the linear layer."""
        return functional.normalize(self.pool(self.features(images)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return functional.normalize(self.head(self.pooled(images)))
