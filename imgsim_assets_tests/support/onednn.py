"""Tests of convolutions that oneDNN fuses."""

from __future__ import annotations

import pytest
import torch

from imgsim_assets.encoders import onednn
from imgsim_assets.encoders.fused_convolution import agrees_with_torch

needs_onednn = pytest.mark.skipif(
    not (onednn.suits(torch.device("cpu"), torch.float32) and agrees_with_torch(torch.float32)),
    reason="only where oneDNN fuses convolutions",
)
