"""Whether an invariant holds, and what to tell when it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgsim_assets.text import counted


@dataclass(frozen=True)
class CheckResult:
    """Whether an invariant holds. One that does not always has a message.

    Attributes:
        metadata: the figures that decided it.
        problem: what is wrong and how to fix it, in one line; empty when it holds.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.problem


def problem_of(fix: str, *counts: tuple[int, str] | tuple[int, str, str]) -> str:
    """What is wrong, of what was counted, and how to fix it; empty when nothing was counted.

    Args:
        fix: how to fix it.
        counts: numbers with their nouns, as of `counted`.
    """
    found = " and ".join(counted(*each) for each in counts if each[0])
    return f"{found}; {fix}" if found else ""
