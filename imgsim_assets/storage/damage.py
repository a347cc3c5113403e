"""Damage: what a reading of all bytes finds changed or gone, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """One damaged thing.

    Args:
        location: The table or file.
        message: What is damaged, and the fix.
        repair: Does what can be done without fetching or computing, and returns what it did; ""
            for nothing.
    """

    location: str
    message: str
    repair: Callable[[], str]


@dataclass
class BytesRead:
    """Counts of what an inspection has read."""

    versions: int = 0
    files: int = 0
    blobs: int = 0
    bytes: int = 0
