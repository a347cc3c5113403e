"""How long an exact computation takes, estimated from sizes without loading a library."""

from __future__ import annotations

from imgsim_assets.similarity.threads import worker_count
from imgsim_assets.text import counted

# Fewer pairs of images are compared in minutes.
LARGE_JOIN = 10**11
# Numbers of pairs of vectors that a core compares in a second, by benchmarks/similarity.py.
_NUMBERS_PER_SECOND = 8e10


def exact_seconds(pairs: int, dim: int) -> float | None:
    """The estimated time of comparing pairs of images on the cores of this process.

    Args:
        pairs: how many.
        dim: how many numbers a vector has.

    Returns:
        The seconds; None for fewer than 1e11 pairs, of which nobody needs to be told.
    """
    if pairs < LARGE_JOIN:
        return None
    return pairs * dim / _NUMBERS_PER_SECOND / worker_count()


def describe_exact_time(seconds: float) -> str:
    """The time of an exact computation: "about 60 minutes on 2 cores of this machine"."""
    minutes = counted(max(1, round(seconds / 60)), "minute")
    return f"about {minutes} on {counted(worker_count(), 'core')} of this machine"
