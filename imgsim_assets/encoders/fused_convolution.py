"""A convolution that oneDNN computes in one pass with a sum and an activation behind it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import nn

# oneDNN's name of an activation, its scalar arguments, and which of several formulas.
_Description = tuple[str, Sequence[float], str]
_DESCRIPTIONS: Mapping[type[nn.Module], Callable[[Any], _Description]] = {
    nn.Identity: lambda _: ("none", (), ""),
    nn.ReLU: lambda _: ("relu", (), ""),
    nn.ReLU6: lambda _: ("hardtanh", (0.0, 6.0), ""),
    nn.Hardswish: lambda _: ("hardswish", (), ""),
    nn.SiLU: lambda _: ("swish", (), ""),
    nn.GELU: lambda module: ("gelu", (), module.approximate),
}
# The activations that a convolution applies, and those that it applies after a sum.
ACTIVATIONS: Final = frozenset(_DESCRIPTIONS)
SUM_ACTIVATIONS: Final = frozenset({nn.Identity, nn.ReLU})


class FusedConvolution(nn.Module):
    """A convolution, then a sum if there is an addend, then an activation.

    The first forward pass reorders the weights for oneDNN, for batches and images of that size;
    other sizes are slower. With reordered weights the module cannot be copied.

    Args:
        convolution: with zeros as padding.
        activation: one of ACTIVATIONS; of SUM_ACTIVATIONS where there is an addend.
        overwrites_addend: whether the result may be written into the addend's memory.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        activation: nn.Module | None = None,
        *,
        overwrites_addend: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation or nn.Identity()
        self.overwrites_addend = overwrites_addend
        self._reordered: torch.Tensor | None = None
        self._lock = threading.Lock()

    def forward(self, batch: torch.Tensor, addend: torch.Tensor | None = None) -> torch.Tensor:
        """(n, c, h, w), and an addend that broadcasts, to the activated (n, c', h', w')."""
        weight = self._weight(batch.shape)
        if addend is None:
            return self._convolved(batch, weight, self.activation)
        if addend.shape == self._output_shape(batch):
            return self._added(batch, weight, addend)
        convolved = self._convolved(batch, weight, nn.Identity())
        result: torch.Tensor = self.activation(convolved + addend)
        return result

    def _convolved(
        self, batch: torch.Tensor, weight: torch.Tensor, activation: nn.Module
    ) -> torch.Tensor:
        convolved: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            batch, weight, *self._arguments(), *_DESCRIPTIONS[type(activation)](activation)
        )
        return convolved

    def _added(
        self, batch: torch.Tensor, weight: torch.Tensor, addend: torch.Tensor
    ) -> torch.Tensor:
        name, scalars, algorithm = _DESCRIPTIONS[type(self.activation)](self.activation)
        unary = (None, (), None) if name == "none" else (name, scalars, algorithm)
        after = (*self._arguments(), "add", None, *unary)
        added: torch.Tensor
        if self.overwrites_addend:
            added = torch.ops.mkldnn._convolution_pointwise_.binary(addend, batch, weight, *after)
        else:
            added = torch.ops.mkldnn._convolution_pointwise.binary(batch, addend, weight, *after)
        return added

    def _arguments(self) -> tuple[Any, ...]:
        conv = self.convolution
        return conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups

    def _output_shape(self, batch: torch.Tensor) -> tuple[int, ...]:
        conv: Any = self.convolution
        sides = [
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, padding, dilation, kernel, stride in zip(
                batch.shape[2:],
                conv.padding,
                conv.dilation,
                conv.kernel_size,
                conv.stride,
                strict=True,
            )
        ]
        return (len(batch), conv.out_channels, *sides)

    def _weight(self, shape: Sequence[int]) -> torch.Tensor:
        # All threads have to use the same order, so that they compute the same bits.
        with self._lock:
            if self._reordered is None:
                conv = self.convolution
                self._reordered = torch.ops.mkldnn._reorder_convolution_weight(
                    conv.weight, conv.padding, conv.stride, conv.dilation, conv.groups, shape
                )
                # The original order is dropped: both would need twice the memory.
                conv.weight = nn.Parameter(conv.weight.new_empty(0), requires_grad=False)
            return self._reordered


@cache
def agrees_with_torch(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators exist, accept our arguments and give the numbers of torch's."""
    with torch.device("meta"):  # which draws no random numbers
        convolution = nn.Conv2d(4, 4, 1)
    weights = torch.linspace(-2, 2, 16).view(4, 4, 1, 1)
    state = {"weight": weights, "bias": torch.linspace(-1, 1, 4)}
    convolution.load_state_dict(state, assign=True)
    convolution = convolution.to(dtype).to(memory_format=torch.channels_last)
    batch = _waves(3, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1

    def agrees(activation: nn.Module, addend: torch.Tensor | None, *, overwrites: bool) -> bool:
        convolved = convolution(batch)
        expected = activation(convolved if addend is None else convolved + addend)
        conv = copy.deepcopy(convolution)
        fused = FusedConvolution(conv, activation, overwrites_addend=overwrites)
        return torch.allclose(fused(batch, addend), expected, rtol=tolerance, atol=tolerance)

    try:
        with torch.inference_mode():
            return all(agrees(kind(), None, overwrites=False) for kind in ACTIVATIONS) and all(
                agrees(kind(), _waves(2, dtype), overwrites=overwrites)
                for kind in SUM_ACTIVATIONS
                for overwrites in (False, True)
            )
    except Exception:
        # A changed operator may raise anything.
        return False


def _waves(height: float, dtype: torch.dtype) -> torch.Tensor:
    values = torch.linspace(-height, height, 2 * 4 * 3 * 3).view(2, 4, 3, 3)
    return values.to(dtype).to(memory_format=torch.channels_last)
