from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgsim_assets.encoders import fusing
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.folding import fold_batch_norms
from imgsim_assets.encoders.fusing import FusedConvolution, can_fuse, fuse_convolutions
from imgsim_assets.encoders.pretrained import feature_model
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.weights import saved, untrained

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not can_fuse(CPU, torch.float32), reason="only where oneDNN fuses convolutions"
)


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
def test_a_fused_backbone_is_the_same_function(name: str) -> None:
    model = fold_batch_norms(feature_model(untrained(name), name))
    model = model.to(memory_format=torch.channels_last)
    batch = _batch(2, 96)
    with torch.inference_mode():
        expected = model(batch)

    fused = fuse_convolutions(model)

    with torch.inference_mode():
        found = [fused(batch) for _ in range(2)]
    scale = expected.abs().max()
    torch.testing.assert_close(found[0] / scale, expected / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert not [m for m in fused.modules() if type(m) is nn.Conv2d and m.weight.numel()]


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")],
    ids=repr,
)
def test_every_activation_that_is_fused_is_the_one_that_was_there(activation: nn.Module) -> None:
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


@pytest.mark.parametrize("kind", [_ReadTwice, _CalledTwice, _Reflecting])
def test_what_cannot_be_fused_stays_as_it_is(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = torch.fx.symbolic_trace(kind().eval())
    batch = _batch(2, 16) - 0.5
    with torch.inference_mode():
        expected = model(batch)

        found = fuse_convolutions(model)(batch)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_module_that_was_not_traced_comes_back() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 3))

    assert fuse_convolutions(module) is module


def test_threads_that_begin_together_get_the_same_bits() -> None:
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


def test_it_is_for_processors_on_which_it_was_seen_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not can_fuse(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not fusing.can_fuse(CPU, torch.float32)


@pytest.fixture
def anew() -> Iterator[None]:
    """The operators are tried again, and after the test once more."""
    fusing._fuses_rightly.cache_clear()
    yield
    fusing._fuses_rightly.cache_clear()


def _refuse(*_: object) -> torch.Tensor:
    raise TypeError("_convolution_pointwise() takes 11 arguments")


def _forget_the_activation(batch: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
    convolved: torch.Tensor = _OPERATOR(batch, weight, *more[:-3], "none", (), "")
    return convolved


_OPERATOR = torch.ops.mkldnn._convolution_pointwise


@pytest.mark.parametrize("operator", [_refuse, _forget_the_activation])
@pytest.mark.usefixtures("anew")
def test_operators_that_have_changed_are_not_used(
    operator: Callable[..., torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operator)
    weights = saved(untrained("squeezenet1_1"), tmp_path / "own.pth")
    settings = EncoderSettings(name="squeezenet1_1", weights=weights, device="cpu")

    encoder = load_encoder(settings)

    assert not can_fuse(CPU, torch.float32)
    features = encoder.encode(np.zeros((1, 64, 64, 3), np.uint8))
    assert np.isfinite(features).all()


@pytest.mark.usefixtures("anew")
def test_trying_the_operators_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()

    assert can_fuse(CPU, torch.float32)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("anew")
def test_in_bf16_the_operators_are_right_too() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("only where oneDNN computes in bf16")

    assert can_fuse(CPU, torch.bfloat16)


def _batch(count: int, side: int) -> torch.Tensor:
    made = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last)
