"""Threads: slices of an array, and long tasks that each multiply matrices on one thread."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from imgsim_assets.encoders.hardware import usable_cores

T = TypeVar("T")
R = TypeVar("R")

# Fewer rows are not worth starting threads.
_MIN_PARALLEL_ROWS = 1024
_this_thread = threading.local()
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


def worker_count() -> int:
    """How many tasks run at once."""
    return _threads.get() or usable_cores()


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Within the context, run that many tasks at once; None: one on each core.

    Raises:
        ValueError: for less than one.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1, or None for one per core")
    token = _threads.set(threads)
    try:
        yield
    finally:
        _threads.reset(token)


def multi_threaded_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of tasks that run one after the other, whose matrix products use all workers."""
    if worker_count() >= (os.cpu_count() or 1):
        yield from map(work, items)  # as many threads as a product uses by itself
        return
    with _blas.limited(worker_count()):
        yield from map(work, items)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Within the context, every matrix product uses one thread."""
    with _blas.limited(1):
        yield


def map_tasks(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The results of long tasks, in order, on all workers: of one task, or of each its own."""
    is_parallel = len(items) >= worker_count() > 1
    return (parallel_map if is_parallel else multi_threaded_map)(work, items)


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


def parallel_map(work: Callable[[T], R], items: Iterable[T], *, waiting: int = 0) -> Iterator[R]:
    """The results of long tasks, in order, with one task on each core at a time.

    Nothing inside a task starts threads: neither `parallel_slices` nor a matrix product. Threads
    of several products would wait for each other, and for the work between the products.

    Args:
        work: the task.
        items: what it is called with.
        waiting: how many more run at once, since so many wait for another device.
    """
    with (
        _blas.limited(1),
        ThreadPoolExecutor(worker_count() + waiting, initializer=_become_worker) as threads,
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
        self._limits: list[int] = []
        self._original: Any = None
        self._libraries: Any = None
        self._modules = 0

    @contextmanager
    def limited(self, threads: int) -> Iterator[None]:
        """Limit products to so many threads; of several users, the smallest number counts."""
        with self._lock:
            self._limits.append(threads)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(threads)
                self._apply()

    def _apply(self) -> None:
        if self._original is not None:
            self._original.restore_original_limits()
            self._original = None
        if self._limits:
            # A library that was loaded meanwhile has threads of its own.
            if self._modules != len(sys.modules):
                self._libraries, self._modules = ThreadpoolController(), len(sys.modules)
            self._original = self._libraries.limit(limits=min(self._limits), user_api="blas")


_blas = _Blas()
