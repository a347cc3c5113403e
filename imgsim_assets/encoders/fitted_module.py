"""A module fitted to the device that runs it: the same function in fewer or faster steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from imgsim_assets.encoders import fused_convolution, linear_fusion, onednn
from imgsim_assets.encoders.conv_fusion import fuse_convolutions
from imgsim_assets.encoders.linear_fusion import fuse_linear_layers
from imgsim_assets.encoders.norm_folding import fold_batch_norms


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
    if not onednn.suits(device, dtype):
        return FittedModule(fitted, is_fused=False)
    fuses_convolutions = has_convolutions and fused_convolution.agrees_with_torch(dtype)
    # torch's own layers are fast in bf16.
    fuses_linear_layers = dtype == torch.float32 and linear_fusion.agrees_with_torch()
    if fuses_convolutions:
        fitted = fuse_convolutions(fitted)
    if fuses_linear_layers:
        fitted = fuse_linear_layers(fitted)
    return FittedModule(fitted, fuses_convolutions or fuses_linear_layers)
