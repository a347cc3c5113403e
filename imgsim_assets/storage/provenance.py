"""Where a version of a table came from: the versions it was made of, back to the source."""

from __future__ import annotations

import posixpath
from pathlib import Path

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.reader import resolve_version
from imgsim_assets.storage.store import Store

_SCHEMA = {
    "table": pl.String,
    "version": pl.String,
    "run_id": pl.String,
    "committed_at": pl.String,
    "fingerprint": pl.String,
}


def read_provenance(
    name: str, *, version: int | None = None, store: Store | str | Path | None = None
) -> pl.DataFrame:
    """The versions that a version of a table (the newest by default) was made of.

    One row for each: table, version, the Dagster run that committed it, when, and the encoder
    fingerprint where there is one. A source's version is the hash of its content. A version
    that is no longer kept has a row without a run, and nothing is known of what lies behind it.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    table, commit = resolve_version(opened, name, version)
    rows: dict[tuple[str, str], dict[str, str | None]] = {}
    waiting = [(table.name, str(commit.version))]
    while waiting:
        entry = waiting.pop(0)
        if entry in rows:
            continue
        facts, inputs = _facts(opened, *entry)
        rows[entry] = {"table": entry[0], "version": entry[1], **facts}
        waiting += inputs
    return pl.DataFrame(list(rows.values()), schema=_SCHEMA)


def _facts(
    store: Store, name: str, version: str
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    """What one commit says of itself, and the tables and versions it names as its inputs."""
    if not version.isdigit():
        return {}, []
    try:
        commit = store.table(name).at(int(version))
    except StoreError:
        return {}, []
    facts = {
        "run_id": commit.run_id,
        "committed_at": commit.committed_at,
        "fingerprint": commit.properties.get("fingerprint"),
    }
    folder = posixpath.dirname(name)
    inputs = [
        (other if "/" in other else f"{folder}/{other}", str(number))
        for other, number in commit.inputs.items()
    ]
    return facts, inputs
