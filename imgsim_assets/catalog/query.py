"""The rows of a database query, by Polars' reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.errors import SourceError

if TYPE_CHECKING:
    import polars as pl


def run_query(settings: SourceSettings) -> pl.DataFrame:
    """The rows of `settings.sql`, in an order that does not depend on the database.

    Raises:
        SourceError: the query fails; no message contains the connection.
    """
    import polars as pl

    if settings.sql is None or settings.connection is None:
        raise AssertionError("only a source with a query is run")
    try:
        import sqlalchemy
    except ImportError as error:
        raise SourceError(
            "sql: the package SQLAlchemy is missing; install imgsim_assets[sql]"
        ) from error
    try:
        engine = sqlalchemy.create_engine(settings.connection.get_secret_value())
        try:
            rows = pl.read_database(settings.sql, engine, infer_schema_length=None)
        finally:
            engine.dispose()
    except Exception as error:  # every database has errors of its own driver
        # Without its cause, whose traceback may show the connection.
        first_line = settings.masked(str(error)).strip().partition("\n")[0]
        raise SourceError(
            f"sql: the query cannot be run: {type(error).__name__}: {first_line}; check 'sql' and "
            "'connection', and that the database's driver is installed"
        ) from None
    return rows.sort(rows.columns) if rows.width and _is_sortable(rows) else rows


def _is_sortable(rows: pl.DataFrame) -> bool:
    return not any(dtype.is_nested() or dtype.is_object() for dtype in rows.dtypes)
