"""The device that computes joins: the CPU by NumPy, or a GPU by torch, with the same results.

`auto` uses a GPU for joins that are large enough. Starting torch and CUDA takes seconds, so that
joins stay on the CPU until they have taken as long as the start; after that all large ones move.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgsim_assets.compute.device import AUTO, use_device
from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.settings import CPU
from imgsim_assets.errors import EncoderError, SettingsError

if TYPE_CHECKING:
    import torch

# Multiply-adds of a join that ends on the CPU before its rows are on a GPU.
_MIN_WORK = 1e10
# Multiply-adds that take the CPU as long as torch and CUDA take to start.
_START_WORK = 3e12
# Multiply-adds of this process on the CPU that a GPU might have computed.
_work_on_cpu = 0.0


def chosen_device(multiply_adds: int) -> torch.device | None:
    """The GPU for a join of so many multiply-adds, or None for the CPU.

    Raises:
        SettingsError: when the declared GPU is not there.
    """
    with use_device(None) as device:
        chosen = _find(device.declared, multiply_adds)
        device.used.add(CPU if chosen is None else str(chosen))
        return chosen


def _find(declared: str, multiply_adds: int) -> torch.device | None:
    if declared == CPU or not multiply_adds:
        return None
    if declared == AUTO and not _is_worth_a_gpu(multiply_adds):
        return None
    from imgsim_assets.encoders.torch_device import find_devices

    try:
        device = find_devices(declared)[0]
    except EncoderError as error:
        raise SettingsError(error) from error
    return None if device.type == CPU else device


def _is_worth_a_gpu(multiply_adds: int) -> bool:
    global _work_on_cpu
    if multiply_adds < _MIN_WORK or not hardware.may_have_gpu():
        return False
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    _work_on_cpu += multiply_adds
    return _work_on_cpu >= _START_WORK
