"""Fewer passes over a network's layers: convolutions fused with what follows them.

`fold_batch_norms` computes the same function in fewer steps. `fuse_activations`, for x86 CPUs,
lets oneDNN apply an activation in the convolution's own pass, with the weights reordered once
instead of in every pass. Those are the operators that torch.compile uses for a model with frozen
weights; here they need no compiler.
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
from torch.nn.utils.fusion import fuse_conv_bn_eval

# oneDNN's name of an activation, its scalar arguments, and which of several formulas.
_Activation = tuple[str, Sequence[float], str]
_NO_ACTIVATION: _Activation = ("none", (), "")
_MODULES: Mapping[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda _: ("relu", (), ""),
    nn.ReLU6: lambda _: ("hardtanh", (0.0, 6.0), ""),
    nn.Hardswish: lambda _: ("hardswish", (), ""),
    nn.SiLU: lambda _: ("swish", (), ""),
    nn.GELU: lambda module: ("gelu", (), module.approximate),
}
_FUNCTIONS = (functional.relu, torch.relu)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every batch normalization into the convolution before it, in evaluation mode.

    A normalization y = (x - m) / s * g + b behind a convolution is affine, so that it becomes
    part of the convolution's weights (Jacob et al., "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2). Vectors
    change by float32 rounding alone. timm's normalizations, which apply an activation too, leave
    that activation.

    Returns:
        A traced module, or the module itself where its forward pass cannot be traced.
    """
    module.eval()
    try:
        graph = fx.GraphModule(module, _Tracer().trace(module))
    except Exception:
        # Tracing a forward pass may raise anything; results do not depend on folding.
        return module
    modules = dict(graph.named_modules())
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    for node in calls:
        before, norm = node.args[0], modules[node.target]
        if not _is_foldable(norm) or not _has_one_reader(before, calls):
            continue
        convolution = modules[before.target]
        if not isinstance(convolution, nn.Conv2d):
            continue
        folded = fuse_conv_bn_eval(convolution, norm)
        _replace(graph, before.target, folded)
        modules[before.target] = folded
        if type(norm) is nn.BatchNorm2d:
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            _replace(graph, node.target, norm.act)
            modules[node.target] = norm.act
    graph.graph.lint()
    graph.recompile()
    return graph


def fuse_activations(module: nn.Module) -> nn.Module:
    """Replace the convolutions of a traced module by ones that apply their activation.

    Returns:
        The same module, changed in place; a module that is not traced stays as it is.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    modules = dict(module.named_modules())
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    for node in calls:
        convolution = modules[node.target]
        is_called_once = sum(call.target == node.target for call in calls) == 1
        if not _is_fusible_conv(convolution) or not is_called_once:
            continue
        activation = _NO_ACTIVATION
        (*others, reader) = node.users or (None,)
        if reader is not None and not others:
            supported = _activation_of(reader, modules)
            if supported is not None:
                activation = supported
                reader.replace_all_uses_with(node)
                module.graph.erase_node(reader)
        _replace(module, node.target, FusedConvolution(convolution, activation))
    module.graph.lint()
    module.recompile()
    return module


class FusedConvolution(nn.Module):
    """A convolution followed by an activation, or by none.

    The first forward pass reorders the weights for oneDNN, for batches and images of that size;
    other sizes are slower. With reordered weights the module cannot be copied.
    """

    def __init__(self, convolution: nn.Conv2d, activation: _Activation = _NO_ACTIVATION) -> None:
        super().__init__()
        self.convolution = convolution
        self._activation = activation
        self._reordered: torch.Tensor | None = None
        self._lock = threading.Lock()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to the activated (n, c', h', w')."""
        conv = self.convolution
        name, scalars, algorithm = self._activation
        convolved: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            batch,
            self._weight(batch.shape),
            conv.bias,
            conv.padding,
            conv.stride,
            conv.dilation,
            conv.groups,
            name,
            scalars,
            algorithm,
        )
        return convolved

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


def can_fuse_activations(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the operators exist, are correct, and are known to be faster for a device."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and _fuses_correctly(dtype)
    )


@cache
def _fuses_correctly(dtype: torch.dtype) -> bool:
    """Whether the operators accept our arguments and agree with torch's own.

    They are no public part of torch, so that another release may change them. Without them a
    network is slower, and its vectors are the same but for rounding.
    """
    with torch.device("meta"):  # which draws no random numbers
        convolution = nn.Conv2d(4, 4, 1)
    weights = torch.linspace(-2, 2, 16).view(4, 4, 1, 1)
    state = {"weight": weights, "bias": torch.linspace(-1, 1, 4)}
    convolution.load_state_dict(state, assign=True)
    batch = torch.linspace(-3, 3, 2 * 4 * 3 * 3).view(2, 4, 3, 3).to(dtype)
    batch = batch.to(memory_format=torch.channels_last)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    try:
        with torch.inference_mode():
            for activation, describe in _MODULES.items():
                module = activation()
                conv = copy.deepcopy(convolution).to(dtype).to(memory_format=torch.channels_last)
                expected = module(conv(batch))
                actual = FusedConvolution(conv, describe(module))(batch)
                if not torch.allclose(actual, expected, rtol=tolerance, atol=tolerance):
                    return False
    except Exception:
        # A changed operator may raise anything.
        return False
    return True


class _Tracer(fx.Tracer):
    """Keeps convolutions and normalizations of other libraries whole, as it does torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one call; see `torch.fx.Tracer`."""
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        return isinstance(m, kinds) or super().is_leaf_module(m, module_qualified_name)


def _is_foldable(module: nn.Module) -> bool:
    """Whether it is a batch normalization, alone or with an activation `act` as in timm."""
    if type(module) is nn.BatchNorm2d:
        return True
    return (
        isinstance(module, nn.BatchNorm2d)
        and isinstance(getattr(module, "act", None), nn.Module)
        and type(getattr(module, "drop", None)) is nn.Identity
    )


def _has_one_reader(node: fx.Node, calls: Sequence[fx.Node]) -> bool:
    """Whether a node calls a module that no other node calls, and one node alone reads it."""
    return (
        node.op == "call_module"
        and len(node.users) == 1
        and sum(call.target == node.target for call in calls) == 1
    )


def _replace(graph: fx.GraphModule, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(graph.get_submodule(parent), name, module)


def _is_fusible_conv(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _activation_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> _Activation | None:
    """The activation that a node applies, if oneDNN has it."""
    if node.op == "call_function":
        return ("relu", (), "") if node.target in _FUNCTIONS else None
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    describe = _MODULES.get(type(module))
    return describe(module) if describe is not None else None
