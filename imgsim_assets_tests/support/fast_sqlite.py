"""Dagster's SQLite databases without fsync: tests kill processes, never the machine."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, event


def disable_fsync() -> None:
    """Turn off fsync for all databases that this process opens from now on."""
    event.listen(Engine, "connect", _set_synchronous_off)


def _set_synchronous_off(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
