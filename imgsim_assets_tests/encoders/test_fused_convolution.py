from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgsim_assets.encoders import onednn
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.fused_convolution import FusedConvolution, agrees_with_torch
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.onednn import needs_onednn
from imgsim_assets_tests.support.weights import save_weights, untrained

CPU = torch.device("cpu")


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


@pytest.fixture
def operators_checked_again() -> Iterator[None]:
    """Check the operators again, and once more after the test."""
    agrees_with_torch.cache_clear()
    yield
    agrees_with_torch.cache_clear()


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

    assert not agrees_with_torch(torch.float32)
    features = encoder.encode(np.zeros((1, 64, 64, 3), np.uint8))
    assert np.isfinite(features).all()


@needs_onednn
@pytest.mark.usefixtures("operators_checked_again")
def test_operator_check_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()

    assert agrees_with_torch(torch.float32)

    assert torch.equal(torch.get_rng_state(), before)


@needs_onednn
@pytest.mark.usefixtures("operators_checked_again")
def test_operators_are_correct_in_bf16() -> None:
    if not onednn.suits(CPU, torch.bfloat16):
        pytest.skip("only where oneDNN computes in bf16")

    assert agrees_with_torch(torch.bfloat16)
