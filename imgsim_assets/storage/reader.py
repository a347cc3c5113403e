"""Reading tables of the store."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgsim_assets.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.storage.commit import Commit
    from imgsim_assets.storage.store import Store
    from imgsim_assets.storage.table import Table

# Names that a message lists.
_SHOWN = 10


def read_table(
    name: str, *, version: int | None = None, store: Store | str | Path | None = None
) -> pl.LazyFrame:
    """Read one version of a table of the store.

    The version is pinned when this function is called: a run that commits later does not change
    what the frame reads. Files are read when the frame is collected, and only as far as the query
    needs them.

    Args:
        name: Such as "products/images" or "matches/products__suppliers".
        version: Number of the version; default: the newest.
        store: The store, or its path or URL; default: the environment variable IMGSIM_STORE, else
            data/store of the project.

    Returns:
        The rows of the table, each key once.

    Raises:
        StoreError: The table or the version does not exist; the message lists similar ones.
        CorruptFileError: A file of the version is missing, truncated or, if its checksum is
            verified, damaged. Local files of plain tables are memory-mapped and not verified.

    Examples:
        >>> from imgsim_assets import read_table
        >>> rows = read_table("products/images")
        >>> rows.filter(pl.col("status") != "ok").collect()
    """
    from imgsim_assets.storage.scan import scan_table

    return scan_table(*resolve_version(open_store(store), name, version))


def open_store(store: Store | str | Path | None, *, single_writer: bool | None = None) -> Store:
    """The store itself, or the store at a path or URL; default: as of `read_table`.

    `single_writer` is that of `Store.open`.
    """
    from imgsim_assets.storage.store import Store

    return store if isinstance(store, Store) else Store.open(store, single_writer=single_writer)


def resolve_version(store: Store, name: str, version: int | None = None) -> tuple[Table, Commit]:
    """A table and one of its commits, the newest by default.

    Raises:
        StoreError: The table or the version does not exist.
    """
    table = store.table(name)
    commit = table.at(version) if version is not None else table.latest()
    if commit is None:
        names = store.table_names()
        raise StoreError(
            f"the store {store.url} has no table {name!r}; "
            + (_listed(name, names) if names else "it is empty: materialize an asset first")
        )
    return store.table(name, key=commit.key), commit


def _listed(name: str, names: Sequence[str]) -> str:
    """The names most like the one that is missing, or else the first ones."""
    similar = difflib.get_close_matches(name, names, n=_SHOWN)
    shown = sorted(similar) or names[:_SHOWN]
    more = len(names) - len(shown)
    return f"it has {', '.join(shown)}" + (f" and {more} more" if more else "")
