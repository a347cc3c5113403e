"""The memory budget: what a step may hold beside its libraries and two blocks of vectors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DEFAULT_BUDGET = 512 << 20
MIN_BUDGET = 16 << 20
# What a pair of keys takes, with copies, and the image of its right row.
_PAIR_BYTES = 512

_budget: ContextVar[int] = ContextVar("memory_budget", default=DEFAULT_BUDGET)


@contextmanager
def use_memory_budget(budget: int | None) -> Iterator[None]:
    """Within the context, steps keep to a memory budget. It never changes their results.

    Args:
        budget: bytes; None: that of the surrounding context, or 512 MiB.

    Raises:
        ValueError: for less than 16 MiB.
    """
    if budget is not None and budget < MIN_BUDGET:
        raise ValueError(f"memory budget: {budget:,} bytes are less than {MIN_BUDGET:,}")
    token = _budget.set(_budget.get() if budget is None else budget)
    try:
        yield
    finally:
        _budget.reset(token)


def memory_budget() -> int:
    """The bytes that a step may hold."""
    return _budget.get()


def join_budget() -> int:
    """Bytes of tiles, projected rows and candidates of a join: half of the budget."""
    return _budget.get() // 2


def vectors_in_memory() -> int:
    """Bytes of vectors that stay in memory, where more lie in a scratch file."""
    return _budget.get() // 4


def block_bytes() -> int:
    """Bytes of a block of vectors."""
    return _budget.get() // 4


def part_bytes() -> int:
    """Bytes of vectors that are read at once for a reader that needs no more of them."""
    return _budget.get() // 32


def pairs_in_memory() -> int:
    """Pairs of keys that are updated together."""
    return _budget.get() // _PAIR_BYTES


def rows_in_memory() -> int:
    """Bytes of the ids and hashes of a catalog that stay in memory."""
    return _budget.get() // 64


def return_freed_memory() -> None:
    """Give the memory that was freed back to the system, which the C library may keep.

    The arrays of a join leave large holes in its heap, and what follows is not as large. Without
    glibc this does nothing.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(ctypes.c_size_t(0))
