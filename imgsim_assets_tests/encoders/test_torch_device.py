from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgsim_assets.encoders import torch_device
from imgsim_assets.encoders.torch_device import may_use_tf32, without_tf32
from imgsim_assets.encoders.torch_encoder import TorchEncoder

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _values() -> list[Any]:
    return [getattr(part, name) for part, name, _ in torch_device._tf32_switches()]


def test_tf32_is_off_in_context_and_restored_after() -> None:
    before = _values()

    with without_tf32():
        assert set(_values()) <= {"ieee", False}
        assert not torch.backends.cuda.matmul.allow_tf32

    assert _values() == before
    # Torch's older switches read as before.
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_restored_after_an_error() -> None:
    before = _values()

    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError

    assert _values() == before


def test_last_thread_restores_tf32() -> None:
    before = _values()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with without_tf32():
            entered.set()
            leave.wait(30)

    other = threading.Thread(target=hold)
    with without_tf32():
        other.start()
        assert entered.wait(30)
    off = _values()
    leave.set()
    other.join()

    assert set(off) <= {"ieee", False}
    assert _values() == before


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        (GPU, torch.float32, True),
        (GPU, torch.bfloat16, False),
        (CPU, torch.float32, False),
    ],
)
def test_only_float32_on_gpu_may_use_tf32(
    device: torch.device, dtype: torch.dtype, *, expected: bool
) -> None:
    assert may_use_tf32(device, dtype) is expected


class _Asking(nn.Module):
    """Records the switches during its forward pass."""

    seen: list[Any]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen = _values()
        return batch


def test_gpu_forward_pass_disables_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _Asking()
    encoder = TorchEncoder(module, np.asarray, 2, [CPU])
    encoder.encode(np.zeros((1, 2), np.float32))
    on_cpu = module.seen
    monkeypatch.setattr("imgsim_assets.encoders.torch_encoder.may_use_tf32", lambda *_: True)

    encoder.encode(np.zeros((1, 2), np.float32))

    assert on_cpu == _values()
    assert set(module.seen) <= {"ieee", False}
