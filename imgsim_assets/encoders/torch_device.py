"""The devices that torch computes on: which to use, in which number format, at full precision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.settings import BF16, GPU, EncoderSettings
from imgsim_assets.errors import EncoderError


def resolve_devices(settings: EncoderSettings) -> list[torch.device]:
    """`find_devices` of an encoder's settings."""
    return find_devices(settings.device, settings.num_gpus)


def find_devices(device: str, num_gpus: int = -1) -> list[torch.device]:
    """The devices that `device` and `num_gpus` mean here: one CPU, or one or more GPUs.

    Args:
        device: auto, cpu, cuda or cuda:N.
        num_gpus: how many GPUs with auto or cuda; -1: all.

    Raises:
        EncoderError: when this machine lacks a GPU that the arguments name.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    declared = torch.device(device) if device != "auto" else None
    if declared is not None and declared.type == "cpu":
        return [declared]
    if declared is not None and ":" in device:
        if declared.index >= visible:
            raise _no_gpu(f"device: there is no {device} on this machine", visible)
        return [declared]
    if num_gpus > visible:
        raise _no_gpu(f"num_gpus: this machine does not have {num_gpus}", visible)
    count = visible if num_gpus == -1 else num_gpus
    if declared is not None and not count:
        raise _no_gpu("device: there is no cuda on this machine", visible)
    return [torch.device("cuda", number) for number in range(count)] or [torch.device("cpu")]


def _no_gpu(problem: str, visible: int) -> EncoderError:
    return EncoderError(f"{problem} ({visible} GPUs are visible); use 'auto' or 'cpu'")


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a resolved precision, fp32 or bf16."""
    return torch.bfloat16 if precision == BF16 else torch.float32


def require_bf16(dtype: torch.dtype, device: torch.device) -> None:
    """Raise EncoderError where a device would have to emulate bfloat16."""
    if dtype != torch.bfloat16:
        return
    has_bf16 = hardware.has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    if not has_bf16:
        raise EncoderError(
            f"precision: this catalog's vectors are computed in bf16, which the {device.type} "
            "of this machine cannot; run it where the first run was, or set 'precision: fp32' of "
            "the encoder in all catalogs that are compared, which recomputes their vectors"
        )


def require_gpu_for_decoding(settings: EncoderSettings, device: torch.device) -> None:
    """Raise EncoderError where JPEGs are to be decoded on a GPU and the device is none."""
    if settings.decode == GPU and device.type != "cuda":
        raise EncoderError(
            "decode: this catalog's JPEGs are decoded on a GPU, and this machine has none that "
            "torch can use; run it on one that has, or set 'decode: cpu' of the encoder in all "
            "catalogs that are compared, which recomputes their vectors"
        )


def may_use_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device by default may round products to fewer bits than a dtype has.

    Since Ampere cuDNN's convolutions use TF32, which keeps 10 of float32's 23 fraction bits,
    while a vector's fingerprint says float32, as on a CPU.
    """
    return device.type == "cuda" and dtype == torch.float32


class _Switches:
    """Switches of torch that are set for the whole process until the last thread leaves."""

    def __init__(self, switches: Callable[[], list[tuple[Any, str, Any]]]) -> None:
        self._switches = switches
        self._lock = threading.Lock()
        self._holders = 0
        self._defaults: list[Any] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the switches at their values."""
        with self._lock:
            if not self._holders:
                self._defaults = [getattr(owner, name) for owner, name, _ in self._switches()]
                self._set([value for _, _, value in self._switches()])
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._set(self._defaults)

    def _set(self, values: list[Any]) -> None:
        for (owner, name, _), value in zip(self._switches(), values, strict=True):
            setattr(owner, name, value)


def _tf32_switches() -> list[tuple[Any, str, Any]]:
    """Torch's switches: the object, its attribute, and the value for full float32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Torch 2.9 replaced the older switches, and raises where both kinds are used.
    if hasattr(cudnn, "conv"):
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]


def _sum_switches() -> list[tuple[Any, str, Any]]:
    """Torch's switch for the number format in which products of bfloat16 are summed."""
    return [(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False)]


_tf32, _sums = _Switches(_tf32_switches), _Switches(_sum_switches)


def without_tf32() -> AbstractContextManager[None]:
    """Disable TF32 in the whole process until the last thread leaves the context."""
    return _tf32.held()


def with_float32_sums() -> AbstractContextManager[None]:
    """Sum products of bfloat16 in float32 until the last thread leaves the context."""
    return _sums.held()
