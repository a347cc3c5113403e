"""Float32 in full on CUDA cards, which round it to TF32 on their own account.

Since Ampere cuDNN's convolutions keep 10 of 23 bits of the fraction unless they are told not
to, while a vector's fingerprint says float32, as on a CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_holders = 0
_before: list[Any] = []


@contextmanager
def without_tf32() -> Iterator[None]:
    """Nothing is computed in TF32 meanwhile, in any thread.

    The switches are those of the process: the first to enter turns them, the last to leave
    turns them back.
    """
    global _holders
    with _lock:
        if not _holders:
            _before[:] = [getattr(part, name) for part, name, _ in _switches()]
            _turn([off for _, _, off in _switches()])
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                _turn(_before)


def _turn(values: list[Any]) -> None:
    for (part, name, _), value in zip(_switches(), values, strict=True):
        setattr(part, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Where torch keeps them: an object, its attribute, and the value for full float32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Torch 2.9 has others in their place, and refuses to answer who mixes them.
    if hasattr(cudnn, "conv"):
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
