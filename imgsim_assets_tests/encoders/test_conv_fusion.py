from __future__ import annotations

from collections.abc import Sequence

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from imgsim_assets.encoders.conv_fusion import fuse_convolutions
from imgsim_assets.encoders.fused_convolution import FusedConvolution
from imgsim_assets.encoders.norm_folding import fold_batch_norms
from imgsim_assets.encoders.pretrained import feature_model
from imgsim_assets_tests.support.onednn import needs_onednn
from imgsim_assets_tests.support.weights import untrained


@needs_onednn
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",  # ReLU6
        "mobilenet_v3_small",  # Hardswish, and gates between
        "efficientnet_b0",  # SiLU
        "resnet18",  # shortcuts
        "densenet121",  # activations in front, shared readers
        "googlenet",  # activations as functions
        "squeezenet1_1",
    ],
)
def test_fused_backbone_is_the_same_function(name: str) -> None:
    model = fold_batch_norms(feature_model(untrained(name), name))
    model = model.to(memory_format=torch.channels_last)
    batch = _batch(2, 96)
    with torch.inference_mode():
        expected = model(batch)

    fused = fuse_convolutions(model)

    with torch.inference_mode():
        actual = [fused(batch) for _ in range(2)]
    scale = expected.abs().max()
    torch.testing.assert_close(actual[0] / scale, expected / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual[0], actual[1], rtol=0, atol=0)
    assert not [m for m in fused.modules() if type(m) is nn.Conv2d and m.weight.numel()]


@needs_onednn
@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")],
    ids=repr,
)
def test_fused_activation_is_the_same_function(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 3), activation).eval())
    batch = 4 * _batch(2, 16) - 2
    with torch.inference_mode():
        expected = model(batch)

    fused = fuse_convolutions(model)

    assert isinstance(fused, torch.fx.GraphModule)
    assert not [node for node in fused.graph.nodes if node.target == "1"]
    with torch.inference_mode():
        torch.testing.assert_close(fused(batch), expected, rtol=1e-4, atol=1e-5)


class _ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.activation = nn.ReLU()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        convolved = self.convolution(batch)
        return self.activation(convolved) + convolved  # type: ignore[no-any-return]


class _CalledTwice(_ReadTwice):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.activation(self.convolution(batch)))  # type: ignore[no-any-return]


class _Reflecting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(3, 3, 3, padding="same")

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.same(self.convolution(batch)).relu()  # type: ignore[no-any-return]


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)


class _AddsView(_Two):
    """Its sum must not be written into the memory of the view."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        whole = self.first(batch)
        viewed = whole[:, :, ::1]
        added = self.second(batch) + viewed
        return added * whole  # type: ignore[no-any-return]


class _ChangesAddend(_Two):
    """What its sum adds is changed in place after the convolution."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        addend = self.first(batch)
        convolved = self.second(batch)
        changed = self.activation(addend)
        return (convolved + addend) - changed  # type: ignore[no-any-return]


@needs_onednn
@pytest.mark.parametrize("kind", [_ReadTwice, _CalledTwice, _Reflecting, _AddsView, _ChangesAddend])
def test_networks_that_share_memory_or_layers_are_the_same_function(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = torch.fx.symbolic_trace(kind().eval())
    batch = _batch(2, 16) - 0.5
    with torch.inference_mode():
        expected = model(batch)

        actual = fuse_convolutions(model)(batch)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_untraced_module_is_not_fused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 3))

    assert fuse_convolutions(module) is module


@needs_onednn
@pytest.mark.parametrize(
    ("name", "sums", "overwriting"),
    [("resnet50", 16, 16), ("mobilenetv3_small_050", 7, 7), ("tf_efficientnet_lite0", 9, 9)],
)
def test_shortcuts_of_timm_are_added_by_convolutions(
    name: str, sums: int, overwriting: int
) -> None:
    torch.manual_seed(5)
    model = fold_batch_norms(timm.create_model(name, pretrained=False, num_classes=0))
    model = model.to(memory_format=torch.channels_last)
    batch = _batch(2, 64)
    with torch.inference_mode():
        expected = model(batch)

    fused = fuse_convolutions(model)

    assert isinstance(fused, fx.GraphModule)
    convolutions = [
        (node, fused.get_submodule(str(node.target)))
        for node in fused.graph.nodes
        if node.op == "call_module"
    ]
    assert sum(len(node.args) == 2 for node, _ in convolutions) == sums
    assert (
        sum(isinstance(m, FusedConvolution) and m.overwrites_addend for _, m in convolutions)
        == overwriting
    )
    with torch.inference_mode():
        scale = expected.abs().max()
        for _ in range(2):
            actual = fused(batch)
            torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-4, atol=1e-5)


# A step of a network: what it does, and to which of the last values.
_Step = tuple[str, int, int]


class _Network(nn.Module):
    """Steps, each from two of the values before it; the result is the sum of some of them."""

    def __init__(self, steps: Sequence[_Step], results: Sequence[int]) -> None:
        super().__init__()
        self._steps = steps
        self._results = results
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in steps)
        self.relu = nn.ReLU()
        self.relu_in_place = nn.ReLU(inplace=True)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values = [batch * 1]
        for convolution, (kind, *places) in zip(self.convolutions, self._steps, strict=True):
            left, right = (values[-1 - place % len(values)] for place in places)
            if kind == "convolution":
                values.append(convolution(left))
            elif kind == "relu":
                values.append(self.relu(left))
            elif kind == "relu in place":
                values.append(self.relu_in_place(left))
            elif kind == "sum":
                values.append(left + right)
            elif kind == "sum in place":
                values.append(left.add_(right))
            elif kind == "mean":
                values.append(left.mean((2, 3), keepdim=True) + right)
            else:
                values.append(left[:, :, ::1])
        total = values[-1]
        for place in self._results:
            total = total + values[-1 - place % len(values)]
        return total


_STEPS = st.tuples(
    st.sampled_from(
        [
            *("convolution", "convolution", "convolution", "sum", "sum"),
            *("relu", "relu in place", "sum in place", "mean", "view"),
        ]
    ),
    st.integers(0, 4),
    st.integers(0, 4),
)


@needs_onednn
@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(_STEPS, min_size=2, max_size=12),
    results=st.lists(st.integers(0, 8), max_size=2),
)
def test_any_network_is_the_same_function(steps: list[_Step], results: list[int]) -> None:
    torch.manual_seed(0)
    model = _Network(steps, results).eval().to(memory_format=torch.channels_last)
    batch = 2 * _batch(2, 6) - 1
    with torch.inference_mode():
        expected = model(batch)

        fused = fuse_convolutions(fx.symbolic_trace(model))

        scale = expected.abs().max().clamp(min=1)
        for _ in range(2):
            torch.testing.assert_close(fused(batch) / scale, expected / scale, rtol=0, atol=1e-5)


@needs_onednn
def test_addend_of_another_shape_is_broadcast() -> None:
    class Broadcasting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 1)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            mean = batch.mean((2, 3), keepdim=True)
            return torch.relu(batch + self.convolution(mean))

    torch.manual_seed(0)
    model = Broadcasting().eval()
    batch = _batch(2, 6) - 0.5
    with torch.inference_mode():
        expected = model(batch)

        fused = fuse_convolutions(fx.symbolic_trace(model))

        torch.testing.assert_close(fused(batch), expected, rtol=1e-4, atol=1e-5)


def _batch(count: int, size: int) -> torch.Tensor:
    made = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last)
