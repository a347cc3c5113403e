"""Batch normalization folded into the convolution before it: the same function, fewer steps."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """The module with every foldable batch normalization folded away, in evaluation mode.

    A normalization y = (x - m) / s * g + b behind a convolution is itself affine, so that it
    becomes part of the convolution's weights (Jacob et al., "Quantization and Training of
    Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2).
    Vectors move by float32 rounding alone. A module whose forward pass depends on its input's
    values cannot be traced, and comes back as it was.
    """
    module.eval()
    try:
        graph = fx.symbolic_trace(module)
    except Exception:
        # What tracing meets in a forward pass is open, and folding is not needed for results.
        return module
    modules = dict(graph.named_modules())
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    for node in calls:
        before = node.args[0]
        if not isinstance(modules[node.target], nn.BatchNorm2d) or not _is_sole_reader(
            before, calls
        ):
            continue
        convolution = modules[before.target]
        if not isinstance(convolution, nn.Conv2d):
            continue
        parent, _, name = before.target.rpartition(".")
        folded = fuse_conv_bn_eval(convolution, modules[node.target])
        setattr(graph.get_submodule(parent), name, folded)
        modules[before.target] = folded
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return graph


def _is_sole_reader(node: fx.Node, calls: list[fx.Node]) -> bool:
    """Whether a call of a module that is called once is read by one other call alone."""
    return (
        node.op == "call_module"
        and len(node.users) == 1
        and sum(call.target == node.target for call in calls) == 1
    )
