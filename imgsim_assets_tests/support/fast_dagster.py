"""Dagster records runs of tests in less time: what a user would notice is as it is."""

from __future__ import annotations

import functools
import sqlite3
from typing import Any

import sqlalchemy
from sqlalchemy import Engine, event
from sqlalchemy.pool import NullPool

# In a test's `dagster.yaml`: two processes for each run's output would start and end with it.
HOME = """
telemetry: {enabled: false}
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
_OPTIONS = {"poolclass", "connect_args"}


def disable_fsync() -> None:
    """Turn off fsync for all databases that this process opens from now on.

    Tests kill processes, never the machine.
    """
    event.listen(Engine, "connect", _set_synchronous_off)


def _set_synchronous_off(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def reuse_engines() -> None:
    """Keep SQLAlchemy's engines, and with them the statements that they have compiled.

    Dagster creates an engine for each connection to its SQLite databases. To be called before
    Dagster is imported.
    """
    create = sqlalchemy.create_engine

    @functools.lru_cache(maxsize=32)
    def open_engine(url: str, connect_args: tuple[tuple[str, Any], ...]) -> Engine:
        return create(url, poolclass=NullPool, connect_args=dict(connect_args))

    def create_engine(url: Any, **options: Any) -> Engine:
        is_dagsters = options.get("poolclass") is NullPool and options.keys() <= _OPTIONS
        if is_dagsters and isinstance(url, str) and url.startswith("sqlite"):
            return open_engine(url, tuple(options.get("connect_args", {}).items()))
        return create(url, **options)

    sqlalchemy.create_engine = create_engine
