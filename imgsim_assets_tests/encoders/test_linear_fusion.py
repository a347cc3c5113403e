from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from torch import nn

from imgsim_assets.encoders import linear_fusion, onednn
from imgsim_assets.encoders.fitted_module import fit_module
from imgsim_assets.encoders.linear_fusion import FusedLinear, agrees_with_torch, fuse_linear_layers

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not (onednn.suits(CPU, torch.float32) and agrees_with_torch()),
    reason="only where oneDNN fuses linear layers",
)


def small_vit() -> nn.Module:
    torch.manual_seed(3)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=2, img_size=64
    )
    return model.eval()


@needs_onednn
@pytest.mark.parametrize(
    ("device", "dtype", "fused"),
    [("cpu", torch.float32, True), ("cpu", torch.bfloat16, False), ("cuda", torch.float32, False)],
)
def test_linear_layers_are_fused_in_float32_on_cpus(
    device: str, dtype: torch.dtype, fused: bool
) -> None:
    module = nn.Sequential(nn.Linear(4, 4))

    fitted = fit_module(module, torch.device(device), dtype)

    assert isinstance(fitted.module[0], FusedLinear) is fitted.is_fused is fused  # type: ignore[index]


def test_operators_that_give_other_numbers_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    agrees_with_torch.cache_clear()
    monkeypatch.setattr(
        linear_fusion.FusedLinear, "forward", lambda _, rows: torch.zeros(*rows.shape[:-1], 4)
    )
    try:
        assert not agrees_with_torch()
    finally:
        agrees_with_torch.cache_clear()


@needs_onednn
def test_fused_vision_transformer_is_the_same_function() -> None:
    batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = small_vit()(batch)
        fused = fuse_linear_layers(small_vit())
        actual = fused(batch)

    assert not any(type(module) is nn.Linear for module in fused.modules())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_threads_compute_the_same_bits() -> None:
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def encode(_: int) -> np.ndarray:
        with torch.inference_mode():
            rows: np.ndarray = fused(batch).numpy()
        return rows

    fused = fuse_linear_layers(small_vit())
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(encode, range(8))
    for other in others:
        np.testing.assert_array_equal(other, first)


@needs_onednn
def test_layer_without_bias_and_rows_of_other_counts_are_mapped() -> None:
    torch.manual_seed(4)
    plain = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 5, bias=False))
    fused = fuse_linear_layers(copy.deepcopy(plain))
    for count in (7, 1, 30):
        rows = torch.rand(count, 16, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            torch.testing.assert_close(fused(rows), plain(rows), rtol=1e-4, atol=1e-5)
