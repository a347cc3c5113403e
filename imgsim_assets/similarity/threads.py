"""Threads: slices of an array, and long tasks that each multiply matrices on one thread."""

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
_MIN_PARALLEL_ROWS = 1024
_this_thread = threading.local()


def worker_count() -> int:
    """How many tasks run at once."""
    return usable_cores()


def parallel_slices(count: int, step: int, work: Callable[[slice], None]) -> None:
    """Call `work` for slices of `step` rows, which together cover `count`, on all cores."""
    slices = [slice(start, min(start + step, count)) for start in range(0, count, max(1, step))]
    if count < _MIN_PARALLEL_ROWS or _is_worker():
        for part in slices:
            work(part)
        return
    with ThreadPoolExecutor(worker_count()) as threads:
        for _ in threads.map(work, slices):
            pass


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of long tasks, in order, with one task on each core at a time.

    Nothing inside a task starts threads: neither `parallel_slices` nor a matrix product. Threads
    of several products would wait for each other, and for the work between the products.
    """
    with (
        _blas.one_thread(),
        ThreadPoolExecutor(worker_count(), initializer=_become_worker) as threads,
    ):
        yield from threads.map(work, items)


def _become_worker() -> None:
    _this_thread.is_worker = True


def _is_worker() -> bool:
    return getattr(_this_thread, "is_worker", False)


class _Blas:
    """The number of threads of a matrix product, which is one setting for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Limit products to one thread until the last user has left."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                # Looked up each time, since a library loaded meanwhile has threads of its own.
                self._limit = ThreadpoolController().limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._limit.restore_original_limits()


_blas = _Blas()
