"""Dagster's SQLite files without waiting for the disk: tests lose no machine, only processes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event


def disable_fsync() -> None:
    """From now on this process leaves it to the system when its databases reach the disk."""
    event.listen(Engine, "connect", _leave_it_to_the_system)


def _leave_it_to_the_system(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")
