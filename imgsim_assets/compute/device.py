"""The device that joins are to use, and those that they have used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

AUTO = "auto"
_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass
class JoinDevice:
    """What is declared: auto, cpu, cuda or cuda:N; and what joins have used since."""

    declared: str = AUTO
    used: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return ", ".join(sorted(self.used)) or "not needed"


_device: ContextVar[JoinDevice | None] = ContextVar("device", default=None)


def require_device_name(device: str) -> str:
    """The name of a device; ValueError for one that is not auto, cpu, cuda or cuda:N."""
    if not _NAME.fullmatch(device):
        raise ValueError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N")
    return device


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
