from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import fx, nn

from imgsim_assets.encoders import conv_fusion
from imgsim_assets.encoders.conv_fusion import (
    FusedConvolution,
    can_fuse_activations,
    fold_batch_norms,
    fuse_activations,
)
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.pretrained import feature_model
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.weights import save_weights, untrained

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not can_fuse_activations(CPU, torch.float32), reason="only where oneDNN fuses convolutions"
)


@pytest.mark.parametrize(
    ("name", "left"),
    [("mobilenet_v3_small", 0), ("resnet18", 0), ("shufflenet_v2_x0_5", 0), ("densenet121", 62)],
)
def test_folded_backbone_is_the_same_function(name: str, left: int) -> None:
    model = _with_trained_statistics(feature_model(untrained(name), name))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch)

    folded = fold_batch_norms(model)

    with torch.inference_mode():
        actual = folded(batch)
    assert _normalizations(folded) == left
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_folded_model_of_timm_is_the_same_function(name: str) -> None:
    torch.manual_seed(5)
    model = _with_trained_statistics(timm.create_model(name, pretrained=False, num_classes=0))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(batch)

    folded = fold_batch_norms(model)

    assert isinstance(folded, fx.GraphModule)
    called = [folded.get_submodule(n.target) for n in folded.graph.nodes if n.op == "call_module"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in called)
    with torch.inference_mode():
        torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5)


def test_convolution_with_two_readers_keeps_its_normalization() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.convolution(x)
            return self.norm(y) + y  # type: ignore[no-any-return]

    model = _with_trained_statistics(Twice())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    folded = fold_batch_norms(model)

    assert _normalizations(folded) == 1
    torch.testing.assert_close(folded(batch), expected)


def test_convolution_called_twice_keeps_its_normalization() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(self.norm(self.convolution(x)))  # type: ignore[no-any-return]

    model = _with_trained_statistics(Shared())
    batch = torch.rand(1, 3, 8, 8)
    expected = model(batch)

    torch.testing.assert_close(fold_batch_norms(model)(batch), expected)


def test_untraceable_module_is_returned_unchanged() -> None:
    class Depends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = Depends()

    assert fold_batch_norms(model) is model


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

    fused = fuse_activations(model)

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

    fused = fuse_activations(model)

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


@needs_onednn
@pytest.mark.parametrize("kind", [_ReadTwice, _CalledTwice, _Reflecting])
def test_convolutions_that_cannot_be_fused_stay_unchanged(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = torch.fx.symbolic_trace(kind().eval())
    batch = _batch(2, 16) - 0.5
    with torch.inference_mode():
        expected = model(batch)

        actual = fuse_activations(model)(batch)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_untraced_module_is_not_fused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 3))

    assert fuse_activations(module) is module


@needs_onednn
def test_concurrent_first_passes_compute_the_same_bits() -> None:
    torch.manual_seed(0)
    fused = FusedConvolution(nn.Conv2d(16, 16, 3, padding=1, groups=4).eval())
    batch = torch.rand(4, 16, 32, 32)

    def run(_: int) -> torch.Tensor:
        with torch.inference_mode():
            convolved: torch.Tensor = fused(batch)
            return convolved

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(run, range(8))

    assert all(torch.equal(first, other) for other in others)


@needs_onednn
def test_fusion_is_limited_to_x86_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not can_fuse_activations(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not conv_fusion.can_fuse_activations(CPU, torch.float32)


@pytest.fixture
def operators_checked_again() -> Iterator[None]:
    """Check the operators again, and once more after the test."""
    conv_fusion._fuses_correctly.cache_clear()
    yield
    conv_fusion._fuses_correctly.cache_clear()


def _refuse(*_: object) -> torch.Tensor:
    raise TypeError("_convolution_pointwise() takes 11 arguments")


def _forget_the_activation(batch: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
    convolved: torch.Tensor = _OPERATOR(batch, weight, *more[:-3], "none", (), "")
    return convolved


_OPERATOR = torch.ops.mkldnn._convolution_pointwise


@needs_onednn
@pytest.mark.parametrize("operator", [_refuse, _forget_the_activation])
@pytest.mark.usefixtures("operators_checked_again")
def test_changed_operators_are_not_used(
    operator: Callable[..., torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operator)
    weights = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    settings = EncoderSettings(name="squeezenet1_1", weights=weights, device="cpu")

    encoder = load_encoder(settings)

    assert not can_fuse_activations(CPU, torch.float32)
    features = encoder.encode(np.zeros((1, 64, 64, 3), np.uint8))
    assert np.isfinite(features).all()


@needs_onednn
@pytest.mark.usefixtures("operators_checked_again")
def test_operator_check_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()

    assert can_fuse_activations(CPU, torch.float32)

    assert torch.equal(torch.get_rng_state(), before)


@needs_onednn
@pytest.mark.usefixtures("operators_checked_again")
def test_operators_are_correct_in_bf16() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("only where oneDNN computes in bf16")

    assert can_fuse_activations(CPU, torch.bfloat16)


def _with_trained_statistics(model: nn.Module) -> nn.Module:
    """Replace the zeros and ones of a new model by statistics as after training."""
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
            for tensor in (module.running_mean, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=rng) - 0.5)
    return model.eval()


def _normalizations(model: nn.Module) -> int:
    """How many normalizations a forward pass calls."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: called.append("norm"))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        model(torch.rand(1, 3, 96, 96))
    for hook in hooks:
        hook.remove()
    return len(called)


def _batch(count: int, size: int) -> torch.Tensor:
    made = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last)
