"""Warnings when the code location loads."""

from __future__ import annotations

import os
from functools import cache

import dagster as dg


@cache
def warn_once(message: str) -> None:
    """Log a warning, once in a process: `dg check defs` loads twice."""
    dg.get_dagster_logger().warning(message)


def warn_of_missing(problem: str) -> None:
    """Say that a file is not there yet."""
    warn_once(f"{problem}; runs that need it fail until it exists")


def is_validation() -> bool:
    """Whether `dg check defs` loads the project, which may take longer than another load."""
    return os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI") == "1"
