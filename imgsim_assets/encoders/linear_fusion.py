"""Fully connected layers whose weights oneDNN has reordered once, for float32.

torch's own layer calls another library, which uses half of what some processors can do.
"""

from __future__ import annotations

import threading
from functools import cache

import torch
from torch import nn


def fuse_linear_layers(module: nn.Module) -> nn.Module:
    """Replace the fully connected layers of a module that are called as modules.

    Returns:
        The same module, changed in place. It can no longer be copied after a forward pass.
    """
    for path, layer in list(module.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, name = path.rpartition(".")
            if path:
                setattr(module.get_submodule(parent), name, FusedLinear(layer))
    return module


class FusedLinear(nn.Module):
    """A fully connected layer; the first forward pass reorders its weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self._reordered: torch.Tensor | None = None
        self._lock = threading.Lock()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        mapped: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight(rows.numel() // rows.shape[-1]), self.bias, "none", [], ""
        )
        return mapped

    def _weight(self, count: int) -> torch.Tensor:
        # All threads have to use the same order, so that they compute the same bits.
        with self._lock:
            if self._reordered is None:
                self._reordered = torch.ops.mkldnn._reorder_linear_weight(
                    self.weight.detach(), count
                )
                # The original order is dropped: both would need twice the memory.
                self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)
            return self._reordered


@cache
def agrees_with_torch() -> bool:
    """Whether oneDNN's operators exist, accept our arguments and give the numbers of torch's."""
    with torch.device("meta"):  # which draws no random numbers
        linear = nn.Linear(8, 4)
    state = {"weight": torch.linspace(-2, 2, 32).view(4, 8), "bias": torch.linspace(-1, 1, 4)}
    linear.load_state_dict(state, assign=True)
    rows = torch.linspace(-3, 3, 2 * 3 * 8).view(2, 3, 8)
    try:
        with torch.inference_mode():
            return torch.allclose(FusedLinear(linear)(rows), linear(rows), rtol=1e-4, atol=1e-4)
    except Exception:
        # A changed operator may raise anything.
        return False
