"""The versions that a version of a table was computed from, back to the source."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.reader import open_store, resolve_version

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.storage.store import Store

_COLUMNS = ("table", "version", "run_id", "committed_at", "fingerprint")


def read_provenance(
    name: str, *, version: int | None = None, store: Store | str | Path | None = None
) -> pl.DataFrame:
    """The versions that a version of a table was computed from, directly or indirectly.

    Args:
        name: Such as "matches/products__suppliers".
        version: Number of the version; default: the newest.
        store: As of `read_table`.

    Returns:
        One row per version, the given one first: `table`, `version` (of a source the hash of its
        content), `run_id` of the Dagster run that committed it, `committed_at` (ISO 8601, UTC) and
        the encoder's `fingerprint`. Values that do not apply are null, as are those of versions
        that garbage collection has deleted, whose inputs are not listed.

    Raises:
        StoreError: The table or the version does not exist.

    Examples:
        >>> from imgsim_assets import read_provenance
        >>> read_provenance("matches/products__suppliers")
    """
    import polars as pl

    opened = open_store(store)
    table, commit = resolve_version(opened, name, version)
    rows: dict[tuple[str, str], dict[str, str | None]] = {}
    queue = [(table.name, str(commit.version))]
    while queue:
        entry = queue.pop(0)
        if entry in rows:
            continue
        values, inputs = _read_entry(opened, *entry)
        rows[entry] = {"table": entry[0], "version": entry[1], **values}
        queue += inputs
    return pl.DataFrame(list(rows.values()), schema=dict.fromkeys(_COLUMNS, pl.String))


def _read_entry(
    store: Store, name: str, version: str
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    """The columns of one commit, and the tables and versions of its inputs."""
    if not version.isdigit():
        return {}, []
    try:
        commit = store.table(name).at(int(version))
    except StoreError:
        return {}, []
    values = {
        "run_id": commit.run_id,
        "committed_at": commit.committed_at,
        "fingerprint": commit.properties.get("fingerprint"),
    }
    folder = posixpath.dirname(name)
    inputs = [
        (other if "/" in other else f"{folder}/{other}", str(number))
        for other, number in commit.inputs.items()
    ]
    return values, inputs
