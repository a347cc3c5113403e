"""How the network of `imgsim_copy` starts, before it is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from imgsim_assets.encoders.copy_network import DIM, CopyNetwork


def load_published(network: CopyNetwork, weights: Path) -> None:
    """Start from torchvision's published MobileNetV2, a state dict."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    prefix = "features."
    body = {key.removeprefix(prefix): value for key, value in state.items() if prefix in key}
    network.features.load_state_dict(body)


@torch.no_grad()
def start_as_whitening(network: CopyNetwork, pooled: torch.Tensor) -> None:
    """Set the head to the PCA whitening of a sample of pooled rows (m, 1280), m >= DIM."""
    mean = pooled.mean(dim=0)
    _, values, directions = torch.linalg.svd(pooled - mean, full_matrices=False)
    scale = values / len(pooled) ** 0.5 + 0.01
    weight = directions[:DIM] / scale[:DIM, None]
    network.head.weight.copy_(weight)
    network.head.bias.copy_(-(weight @ mean))
