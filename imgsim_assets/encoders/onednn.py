"""Where oneDNN's fused operators are used: those of torch.compile for a model with frozen weights.

They are no public part of torch, so that another release may change them. Each kind is compared
with torch's own operators before its first use. Without them a network is slower, and its vectors
are the same but for rounding.
"""

from __future__ import annotations

import platform

import torch


def suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the operators are known to be faster on a device, in a number format."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
