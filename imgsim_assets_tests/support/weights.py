"""Weights files for torchvision models without a download: random or zero weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

# Random initialization takes seconds, and they would normalize their input twice.
_INCEPTIONS = ("googlenet", "inception_v3")


def untrained(name: str, seed: int = 0) -> nn.Module:
    """A torchvision model with seeded random weights."""
    torch.manual_seed(seed)
    inception = {"init_weights": False, "transform_input": True}
    options: dict[str, Any] = inception if name in _INCEPTIONS else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.eval()


def save_weights(model: nn.Module, path: Path) -> str:
    """Save a model's state dict with torch.save; returns the path."""
    torch.save(model.state_dict(), path)
    return str(path)


def save_zero_weights(name: str, path: Path, **options: Any) -> str:
    """Save a small state dict of zeros in a model's shapes; returns the path."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **options)
    zero = torch.zeros(())
    torch.save({key: zero.expand(value.shape) for key, value in model.state_dict().items()}, path)
    return str(path)
