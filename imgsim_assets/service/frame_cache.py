"""Values that were computed lately, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# What an entry takes beside its rows, so that the number of empty frames is limited, too.
_ENTRY_BYTES = 1000


class FrameCache:
    """DataFrames by key; the ones that were not used for longest leave first.

    Args:
        max_bytes: How large the frames may be together. A larger one is not kept.
    """

    def __init__(self, max_bytes: int = 512_000_000) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._frames: OrderedDict[Hashable, tuple[pl.DataFrame, int]] = OrderedDict()
        self._reading: dict[Hashable, threading.Lock] = {}
        self.bytes = 0

    def get(self, key: Hashable, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """The frame of a key; of several threads that miss it, one reads it."""
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key][0]
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._lock:
                if key in self._frames:
                    return self._frames[key][0]
            try:
                frame = read()
                self._keep(key, frame)
            finally:
                with self._lock:
                    self._reading.pop(key, None)
        return frame

    def _keep(self, key: Hashable, frame: pl.DataFrame) -> None:
        size = int(frame.estimated_size()) + _ENTRY_BYTES
        if size > self._max_bytes:
            return
        with self._lock:
            # Two threads read it if it left between their looks.
            _, replaced = self._frames.pop(key, (None, 0))
            self._frames[key] = (frame, size)
            self.bytes += size - replaced
            while self.bytes > self._max_bytes:
                _, (_, removed) = self._frames.popitem(last=False)
                self.bytes -= removed
