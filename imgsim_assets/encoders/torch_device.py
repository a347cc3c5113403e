"""The devices that torch computes on: which to use, in which number format, at full precision."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.settings import BF16, GPU, EncoderSettings
from imgsim_assets.errors import EncoderError

_tf32_lock = threading.Lock()
_tf32_holders = 0
_tf32_defaults: list[Any] = []


def resolve_devices(settings: EncoderSettings) -> list[torch.device]:
    """The devices that `device` and `num_gpus` mean here: one CPU, or one or more GPUs.

    Raises:
        EncoderError: when this machine lacks a GPU that the settings name.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    declared = torch.device(settings.device) if settings.device != "auto" else None
    if declared is not None and declared.type == "cpu":
        return [declared]
    if declared is not None and ":" in settings.device:
        if declared.index >= visible:
            raise _no_gpu(f"device: there is no {settings.device} on this machine", visible)
        return [declared]
    if settings.num_gpus > visible:
        raise _no_gpu(f"num_gpus: this machine does not have {settings.num_gpus}", visible)
    count = visible if settings.num_gpus == -1 else settings.num_gpus
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


@contextmanager
def without_tf32() -> Iterator[None]:
    """Disable TF32 in the whole process until the last thread leaves the context."""
    global _tf32_holders
    with _tf32_lock:
        if not _tf32_holders:
            _tf32_defaults[:] = [getattr(owner, name) for owner, name, _ in _tf32_switches()]
            _set_tf32_switches([off for _, _, off in _tf32_switches()])
        _tf32_holders += 1
    try:
        yield
    finally:
        with _tf32_lock:
            _tf32_holders -= 1
            if not _tf32_holders:
                _set_tf32_switches(_tf32_defaults)


def _set_tf32_switches(values: list[Any]) -> None:
    for (owner, name, _), value in zip(_tf32_switches(), values, strict=True):
        setattr(owner, name, value)


def _tf32_switches() -> list[tuple[Any, str, Any]]:
    """Torch's switches: the object, its attribute, and the value for full float32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Torch 2.9 replaced the older switches, and raises where both kinds are used.
    if hasattr(cudnn, "conv"):
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
