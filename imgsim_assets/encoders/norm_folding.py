"""Networks without batch normalizations: each becomes part of the convolution before it."""

from __future__ import annotations

from collections.abc import Sequence

import torchvision
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Layers that return their input in evaluation mode.
_IDENTITIES = (nn.Identity, nn.Dropout, torchvision.ops.StochasticDepth)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every batch normalization into the convolution before it, in evaluation mode.

    A normalization y = (x - m) / s * g + b behind a convolution is affine, so that it becomes
    part of the convolution's weights (Jacob et al., "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2). Vectors
    change by float32 rounding alone. timm's normalizations, which apply an activation too, leave
    that activation. Layers that only have an effect in training are removed.

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
    _remove_identities(graph)
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    for node in calls:
        before, norm = node.args[0], modules[node.target]
        if not _is_foldable(norm) or not _has_one_reader(before, calls):
            continue
        convolution = modules[before.target]
        if not isinstance(convolution, nn.Conv2d):
            continue
        folded = fuse_conv_bn_eval(convolution, norm)
        replace_module(graph, before.target, folded)
        modules[before.target] = folded
        if type(norm) is nn.BatchNorm2d:
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            replace_module(graph, node.target, norm.act)
            modules[node.target] = norm.act
    _remove_identities(graph)  # of normalizations that have no activation
    graph.graph.lint()
    graph.recompile()
    return graph


def replace_module(graph: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at a path."""
    parent, _, name = path.rpartition(".")
    setattr(graph.get_submodule(parent), name, module)


class _Tracer(fx.Tracer):
    """Keeps layers of other libraries whole, as it does torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one call; see `torch.fx.Tracer`."""
        kinds = (nn.Conv2d, nn.BatchNorm2d, *_IDENTITIES)
        return isinstance(m, kinds) or super().is_leaf_module(m, module_qualified_name)


def _remove_identities(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and type(graph.get_submodule(node.target)) in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


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
