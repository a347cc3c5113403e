"""Weights files for torchvision models, without a download: untrained, but the right shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

# Their random initialization takes seconds, and they would normalize their input twice.
_INCEPTIONS = ("googlenet", "inception_v3")


def untrained(name: str, seed: int = 0) -> nn.Module:
    """A torchvision model with random weights; the same seed gives the same ones."""
    torch.manual_seed(seed)
    inception = {"init_weights": False, "transform_input": True}
    options: dict[str, Any] = inception if name in _INCEPTIONS else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.eval()


def saved(model: nn.Module, path: Path) -> str:
    """The path of a model's state dict, written there with torch.save."""
    torch.save(model.state_dict(), path)
    return str(path)


def hollow(name: str, path: Path, **options: Any) -> str:
    """The path of a state dict of zeros in a model's shapes; small, whatever the model."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **options)
    zero = torch.zeros(())
    torch.save({key: zero.expand(value.shape) for key, value in model.state_dict().items()}, path)
    return str(path)
