"""Fewer passes over a network's layers: sums and activations move into convolutions.

oneDNN adds a shortcut and applies an activation in the convolution's own pass over memory, with
the weights reordered once instead of in every pass.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

from imgsim_assets.encoders.fused_convolution import (
    ACTIVATIONS,
    SUM_ACTIVATIONS,
    FusedConvolution,
)
from imgsim_assets.encoders.norm_folding import replace_module

_RELU: Final = frozenset({functional.relu, torch.relu})
# Tracing turns `a += b` into the first.
_ADD: Final = frozenset({operator.add, torch.add})


def fuse_convolutions(module: nn.Module) -> nn.Module:
    """Replace the convolutions of a traced module by ones that add and apply their activation.

    Returns:
        The same module, changed in place; a module that is not traced stays as it is.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    modules = dict(module.named_modules())
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    for node in calls:
        is_called_once = sum(call.target == node.target for call in calls) == 1
        if is_called_once and _is_fusible(modules[node.target]):
            modules[node.target] = _fuse(module, node, modules)
    module.graph.lint()
    module.recompile()
    return module


def _fuse(
    graph: fx.GraphModule, node: fx.Node, modules: Mapping[str, nn.Module]
) -> FusedConvolution:
    """Fuse one convolution with the nodes behind it, which leave the graph."""
    convolution: Any = modules[str(node.target)]
    overwrites_addend = False
    supported = ACTIVATIONS
    reader = _only_reader(node)
    addend = _addend(node, reader, modules) if reader is not None else None
    if reader is not None and addend is not None:
        _absorb(node, reader)
        overwrites_addend = _is_disposable(addend, node, modules)
        node.args = (*node.args, addend)
        supported = SUM_ACTIVATIONS
        reader = _only_reader(node)
    activation = _activation(reader, modules) if reader is not None else None
    if reader is not None and type(activation) in supported:
        _absorb(node, reader)
    else:
        activation = None
    fused = FusedConvolution(convolution, activation, overwrites_addend=overwrites_addend)
    replace_module(graph, str(node.target), fused)
    return fused


def _is_fusible(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _is_fused(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], FusedConvolution)


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _absorb(node: fx.Node, reader: fx.Node) -> None:
    """Let a node give what its reader gave."""
    reader.replace_all_uses_with(node)
    node.graph.erase_node(reader)


def _addend(node: fx.Node, sum_: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """What a sum adds to a node, if it may be added when the node is computed."""
    if sum_.op != "call_function" or sum_.target not in _ADD or sum_.kwargs:
        return None
    left, *right = sum_.args
    addend = right[0] if left is node and right else left
    if len(right) != 1 or not isinstance(addend, fx.Node) or not addend < node:
        return None
    between = node.next
    while between is not sum_:
        # What changes the addend in place, or a view of it, has to come first.
        if between.op != "call_module" or getattr(modules[str(between.target)], "inplace", False):
            return None
        between = between.next
    return addend


def _is_disposable(addend: fx.Node, node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether nothing reads an addend's memory once a node has read it.

    Convolutions alone are known to give memory of their own, and not a view of their input's.
    """
    return (
        _is_fused(addend, modules)
        and addend not in node.args
        and all(_is_fused(reader, modules) and reader < node for reader in addend.users)
    )


def _activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The activation that a node applies, if it is a module or has one."""
    if node.op == "call_function" and node.target in _RELU:
        return nn.ReLU()
    return modules[str(node.target)] if node.op == "call_module" else None
