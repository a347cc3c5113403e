"""Convolutions that apply their activation themselves, for x86 CPUs.

Run one after the other, a convolution and its activation read and write the whole layer twice;
oneDNN does both in one pass, and wants the weights in an order of its own, into which they are
brought once instead of every time. These are the operators that torch.compile uses for a model
whose weights are frozen; here they need no compiler.
"""

from __future__ import annotations

import copy
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

# oneDNN's name of an activation, the numbers it takes, and which of several formulas.
_Activation = tuple[str, Sequence[float], str]
_PLAIN: _Activation = ("none", (), "")
_MODULES: Mapping[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda _: ("relu", (), ""),
    nn.ReLU6: lambda _: ("hardtanh", (0.0, 6.0), ""),
    nn.Hardswish: lambda _: ("hardswish", (), ""),
    nn.SiLU: lambda _: ("swish", (), ""),
    nn.GELU: lambda module: ("gelu", (), module.approximate),
}
_FUNCTIONS = (functional.relu, torch.relu)


class FusedConvolution(nn.Module):
    """A convolution followed by an activation, or by none.

    Its weights are put into oneDNN's order by the first forward pass, for the batches and
    images of that size; others are slower. In that order they cannot be copied, and neither
    can the module.
    """

    def __init__(self, convolution: nn.Conv2d, activation: _Activation = _PLAIN) -> None:
        super().__init__()
        self.convolution = convolution
        self._activation = activation
        self._packed: torch.Tensor | None = None
        self._lock = threading.Lock()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to the activated (n, c', h', w')."""
        own = self.convolution
        name, scalars, algorithm = self._activation
        convolved: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            batch,
            self._weight(batch.shape),
            own.bias,
            own.padding,
            own.stride,
            own.dilation,
            own.groups,
            name,
            scalars,
            algorithm,
        )
        return convolved

    def _weight(self, shape: Sequence[int]) -> torch.Tensor:
        # All threads have to compute with the same order, so that they get the same bits.
        with self._lock:
            if self._packed is None:
                own = self.convolution
                self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                    own.weight, own.padding, own.stride, own.dilation, own.groups, shape
                )
                # Kept in one order only: large models would need twice the memory.
                own.weight = nn.Parameter(own.weight.new_empty(0), requires_grad=False)
            return self._packed


def can_fuse(device: torch.device, kind: torch.dtype) -> bool:
    """Whether the operators are there, and are known to be faster, for a device and dtype."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and (kind == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and _fuses_rightly(kind)
    )


@cache
def _fuses_rightly(kind: torch.dtype) -> bool:
    """Whether the operators take what they are given here, and compute what they are to.

    They are no public part of torch, so that another release may have changed them; without
    them a network is slower, and its vectors are the same but for rounding.
    """
    with torch.device("meta"):  # which draws no random numbers
        convolution = nn.Conv2d(4, 4, 1)
    weights = torch.linspace(-2, 2, 16).view(4, 4, 1, 1)
    state = {"weight": weights, "bias": torch.linspace(-1, 1, 4)}
    convolution.load_state_dict(state, assign=True)
    batch = torch.linspace(-3, 3, 2 * 4 * 3 * 3).view(2, 4, 3, 3).to(kind)
    batch = batch.to(memory_format=torch.channels_last)
    tolerance = 1e-4 if kind == torch.float32 else 0.1
    try:
        with torch.inference_mode():
            for activation, describe in _MODULES.items():
                module = activation()
                own = copy.deepcopy(convolution).to(kind).to(memory_format=torch.channels_last)
                expected = module(own(batch))
                found = FusedConvolution(own, describe(module))(batch)
                if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
                    return False
    except Exception:
        # Whatever an operator that has changed has to say.
        return False
    return True


def fuse_convolutions(module: nn.Module) -> nn.Module:
    """A traced module with every convolution in one step with its activation.

    A module that could not be traced comes back as it is.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    modules = dict(module.named_modules())
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    for node in calls:
        convolution = modules[node.target]
        is_called_once = sum(call.target == node.target for call in calls) == 1
        if not _is_plain(convolution) or not is_called_once:
            continue
        activation = _PLAIN
        (*others, reader) = node.users or (None,)
        if reader is not None and not others:
            found = _activation_of(reader, modules)
            if found is not None:
                activation = found
                reader.replace_all_uses_with(node)
                module.graph.erase_node(reader)
        parent, _, name = node.target.rpartition(".")
        setattr(module.get_submodule(parent), name, FusedConvolution(convolution, activation))
    module.graph.lint()
    module.recompile()
    return module


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _activation_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> _Activation | None:
    """What a node that reads a convolution applies to it, if oneDNN has that."""
    if node.op == "call_function":
        return ("relu", (), "") if node.target in _FUNCTIONS else None
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    describe = _MODULES.get(type(module))
    return describe(module) if describe is not None else None
