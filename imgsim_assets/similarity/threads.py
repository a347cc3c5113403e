"""Work on all processors: pieces of an array, and long pieces that multiply on their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from imgsim_assets.encoders.hardware import usable_cores

T = TypeVar("T")
R = TypeVar("R")

# Fewer rows are not worth starting threads.
_FEW = 1024
_this_thread = threading.local()


def processors() -> int:
    """How many pieces of work are done at once."""
    return usable_cores()


def in_pieces(count: int, step: int, work: Callable[[slice], None]) -> None:
    """Do the work for slices of `step` rows, on all processors; each is done on its own."""
    pieces = [slice(start, min(start + step, count)) for start in range(0, count, max(1, step))]
    if count < _FEW or _is_worker():
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(processors()) as threads:
        for _ in threads.map(work, pieces):
            pass


def spread(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of long pieces of work, in order, one piece on each processor at a time.

    Nothing inside a piece starts threads: neither `in_pieces` nor a matrix product. Threads of
    several products would wait for each other, and for what lies between the products.
    """
    with (
        _blas.one_thread(),
        ThreadPoolExecutor(processors(), initializer=_become_worker) as threads,
    ):
        yield from threads.map(work, items)


def _become_worker() -> None:
    _this_thread.is_worker = True


def _is_worker() -> bool:
    return getattr(_this_thread, "is_worker", False)


class _Blas:
    """How many threads a matrix product takes, which is one number for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """One thread until the last of those who asked for it has left."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                # Looked up each time: a library that was loaded since has threads of its own.
                self._limit = ThreadpoolController().limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._limit.restore_original_limits()


_blas = _Blas()
