"""The torch modules that an ONNX export is traced from."""

from __future__ import annotations

import torch
from torch import nn

from imgsim_assets.encoders.torch_encoder import TorchEncoder


class PreparedModule(nn.Module):
    """A torch encoder's module behind its normalization: prepared images to features."""

    def __init__(self, encoder: TorchEncoder) -> None:
        super().__init__()
        self.module = encoder.plain_module()
        self.normalizes = encoder._mean.numel() > 0
        self.register_buffer("mean", encoder._mean.to("cpu"))
        self.register_buffer("deviation", encoder._deviation.to("cpu"))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The features of a batch."""
        if self.normalizes:
            image = image.permute(0, 3, 1, 2).float() / 255
            image = (image - self.get_buffer("mean")) / self.get_buffer("deviation")
        features: torch.Tensor = self.module(image)
        return features.flatten(1).float()


class NearestModule(nn.Module):
    """Images to the positions and distances of the k nearest of some reference vectors."""

    def __init__(
        self, features: nn.Module, references: torch.Tensor, k: int, *, unit: bool, cosine: bool
    ) -> None:
        super().__init__()
        self.features = features
        self.k = k
        self.unit = unit
        self.cosine = cosine
        self.register_buffer("references", references)
        self.register_buffer("halves", references.square().sum(dim=1) / 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (n, k) int64 and distances (n, k) float32, the nearest first."""
        vectors = self.features(image)
        if self.unit or self.cosine:
            lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors = vectors / lengths.clamp(min=1e-12)
        references = self.get_buffer("references")
        # |v - r|^2 grows as this falls.
        scores = vectors @ references.T - self.get_buffer("halves")
        positions = torch.topk(scores, self.k, dim=1).indices
        # From the differences: a product would lose the digits of small distances.
        apart = (vectors.unsqueeze(1) - references[positions]).square().sum(dim=2)
        return positions, apart / 2 if self.cosine else torch.sqrt(apart)
