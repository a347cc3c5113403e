"""Joins that torch computes, on its CPU device where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from imgsim_assets.compute.device import use_device
from imgsim_assets.similarity import device_tiles, scan

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=NEEDS_GPU)]


@contextmanager
def torch_joins(device: str, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Within the context, torch computes every join that has pairs and is not to use the CPU.

    Args:
        device: cpu or cuda.
        dtype: of the rounded rows; default: the device's.
    """

    def chosen(multiply_adds: int) -> torch.device | None:
        with use_device(None) as declared:
            is_torch = multiply_adds and declared.declared != "cpu"
            declared.used.add(f"torch {device}" if is_torch else "cpu")
            return torch.device(device) if is_torch else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "chosen_device", chosen)
        if dtype is not None:
            patched.setattr(device_tiles, "fast_dtype", lambda _: dtype)
        yield
