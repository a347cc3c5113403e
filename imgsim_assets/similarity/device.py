"""The device that computes joins: the CPU by NumPy, or a GPU by torch, with the same results.

`auto` uses a GPU for joins that are large enough. Starting torch and CUDA takes seconds, so that
joins stay on the CPU until they have taken as long as the start; after that all large ones move.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.settings import AUTO, CPU, require_device_name
from imgsim_assets.errors import EncoderError, SettingsError

if TYPE_CHECKING:
    import torch

# Multiply-adds of a join that ends on the CPU before its rows are on a GPU.
_MIN_WORK = 1e10
# Multiply-adds that take the CPU as long as torch and CUDA take to start.
_START_WORK = 3e12


@dataclass
class JoinDevice:
    """The device that joins are to use, as declared, and those that they have used."""

    declared: str = AUTO
    used: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return ", ".join(sorted(self.used)) or "not needed"


_device: ContextVar[JoinDevice | None] = ContextVar("device", default=None)
# Multiply-adds of this process on the CPU that a GPU might have computed.
_work_on_cpu = 0.0


@contextmanager
def use_device(device: str | None) -> Iterator[JoinDevice]:
    """Within the context, compute joins on a device.

    Args:
        device: auto, cpu, cuda or cuda:N; None: that of the surrounding context, or auto.

    Yields:
        What says afterwards which devices were used.

    Raises:
        ValueError: for another name.
    """
    surrounding = _device.get()
    if device is None and surrounding is not None:
        yield surrounding
        return
    declared = JoinDevice(AUTO if device is None else require_device_name(device))
    token = _device.set(declared)
    try:
        yield declared
    finally:
        _device.reset(token)


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
