"""A module fitted to the device that runs it: the same function in fewer or faster steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from imgsim_assets.encoders.conv_fusion import (
    can_fuse_activations,
    fold_batch_norms,
    fuse_activations,
)
from imgsim_assets.encoders.linear_fusion import can_fuse_linear_layers, fuse_linear_layers


class FittedModule(NamedTuple):
    """A module for one device.

    Attributes:
        module: the same function but for rounding.
        is_fused: whether it has operators of the device, so that it cannot be copied or exported.
    """

    module: nn.Module
    is_fused: bool


def fit_module(module: nn.Module, device: torch.device, dtype: torch.dtype) -> FittedModule:
    """Fit a module to a device; it may be changed in place.

    Args:
        module: in float32 on the CPU; moved to the device afterwards.
        device: where it will run.
        dtype: in which it will run.
    """
    has_convolutions = any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    fitted = fold_batch_norms(module) if has_convolutions else module.eval()
    fuses_convolutions = has_convolutions and can_fuse_activations(device, dtype)
    fuses_linear_layers = can_fuse_linear_layers(device, dtype)
    if fuses_convolutions:
        fitted = fuse_activations(fitted)
    if fuses_linear_layers:
        fitted = fuse_linear_layers(fitted)
    return FittedModule(fitted, fuses_convolutions or fuses_linear_layers)
