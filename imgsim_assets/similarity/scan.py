"""The scan of all pairs of a join in score tiles, on the device that is chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from imgsim_assets.compute.device import AUTO, use_device
from imgsim_assets.encoders.settings import CPU
from imgsim_assets.errors import DeviceMemoryError
from imgsim_assets.similarity.device import chosen_device
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.prefilter import Prefilter
from imgsim_assets.similarity.tiles import RowBlock, map_row_blocks

R = TypeVar("R")
T = TypeVar("T")


def scan(
    inputs: InputPair,
    choose_prefilter: Callable[[], Prefilter],
    memory_budget: int,
    work: Callable[[RowBlock], R],
) -> Iterator[R]:
    """The results of `work` on every row block, in parallel.

    Args:
        inputs: the left and right rows.
        choose_prefilter: finds the prefilter for the CPU; a GPU has its own.
        memory_budget: bytes of this machine's memory for tiles, prepared rows and candidates.
        work: called with a row block; it must consume the tiles in order.
    """
    device = chosen_device(inputs.multiply_adds)
    if device is None:
        return map_row_blocks(inputs, choose_prefilter(), memory_budget, work)
    from imgsim_assets.similarity.device_tiles import map_device_blocks

    return map_device_blocks(inputs, device, memory_budget, work)


def or_on_cpu(join: Callable[[], T]) -> T:
    """The result of a join that scans; with `auto`, on the CPU if the GPU has too little memory.

    Raises:
        DeviceMemoryError: when a declared GPU has too little memory.
    """
    with use_device(None) as device:
        try:
            return join()
        except DeviceMemoryError:
            if device.declared != AUTO:
                raise
        with use_device(CPU) as cpu:
            result = join()
        device.used |= cpu.used
        return result
