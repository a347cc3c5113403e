"""How a store's catalogs and match tables stand: what is there, what is behind, what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from imgsim_assets.catalog.stage import items_table, rejects_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.stage import embeddings_table
from imgsim_assets.index.stage import index_table
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

State = Literal["fresh", "stale", "missing"]
_IMAGE = ["id", "sha256"]


@dataclass(frozen=True)
class CatalogStatus:
    """One catalog. `stages` says of each whether it is up to the one before it.

    `failures` counts items without an image by status, `retryable` those of them that a later
    run tries again.
    """

    name: str
    items: int
    rejects: int
    images: int
    vectors: int
    failures: Mapping[str, int]
    retryable: int
    encoder: str | None
    stages: Mapping[str, State]


@dataclass(frozen=True)
class MatchStatus:
    """One match table."""

    name: str
    left: str
    right: str
    mode: str
    threshold: float
    matches: int
    state: State


def catalog_names(store: Store) -> list[str]:
    """Every catalog that the store knows, sorted."""
    return sorted(
        name.removesuffix("/images")
        for name in store.table_names()
        if name.endswith("/images") and name.count("/") == 1
    )


def catalog_status(store: Store, name: str) -> CatalogStatus:
    """How one catalog stands."""
    listed = _rows(items_table(store, name), ["id", "url"])
    ledger = _rows(ledger_table(store, name), ["id", "url", "status", "retryable", "sha256"])
    states = _rows(embeddings_table(store, name), ["id", "sha256", "status"])
    rejects = rejects_table(store, name).latest()
    embedded = embeddings_table(store, name).latest()
    failed = ledger.filter(pl.col("status") != OK) if ledger is not None else None
    undecoded = states.filter(pl.col("status") != OK) if states is not None else None
    return CatalogStatus(
        name=name,
        items=listed.height if listed is not None else 0,
        rejects=rejects.rows if rejects is not None else 0,
        images=ledger.height - failed.height if ledger is not None and failed is not None else 0,
        vectors=states.height - undecoded.height
        if states is not None and undecoded is not None
        else 0,
        failures={**_counts(failed), **_counts(undecoded)},
        retryable=int(failed["retryable"].sum()) if failed is not None else 0,
        encoder=_encoder(embedded),
        stages=_stages(store, name, listed, ledger, states),
    )


def match_statuses(store: Store) -> list[MatchStatus]:
    """How every match table stands."""
    found = []
    for name in store.table_names():
        commit = store.table(name).latest() if name.startswith("matches/") else None
        if commit is None:
            continue
        settings = commit.properties
        left = _embedded(store, settings["left"])
        right = _indexed(store, settings["right"])
        sides = ((LEFT_ITEMS, left), (RIGHT_ITEMS, right))
        same = all(_same(_beside(store.table(name), commit, role), now) for role, now in sides)
        found.append(
            MatchStatus(
                name=name.removeprefix("matches/"),
                left=settings["left"],
                right=settings["right"],
                mode=settings["mode"],
                threshold=settings["threshold"],
                matches=commit.rows,
                state="fresh" if same else "stale",
            )
        )
    return found


def _stages(
    store: Store,
    name: str,
    listed: pl.DataFrame | None,
    ledger: pl.DataFrame | None,
    states: pl.DataFrame | None,
) -> dict[str, State]:
    """Whether each stage's rows are those that the stage before it would give it now."""
    fetched = ledger.filter(pl.col("status") == OK).select(_IMAGE) if ledger is not None else None
    graph = graph_table(store, name)
    commit = graph.latest()
    nodes = _beside(graph, commit, LEFT_ITEMS) if commit is not None else None
    return {
        "images": _state(_select(ledger, ["id"]), _select(listed, ["id"])),
        "embeddings": _state(_select(states, _IMAGE), fetched),
        "index": _state(_indexed(store, name), _embedded(store, name)),
        "similarity_graph": _state(nodes, _indexed(store, name)),
    }


def _state(mine: pl.DataFrame | None, wanted: pl.DataFrame | None) -> State:
    if mine is None:
        return "missing"
    return "fresh" if _same(mine, wanted) else "stale"


def _same(mine: pl.DataFrame | None, other: pl.DataFrame | None) -> bool:
    if mine is None or other is None:
        return mine is other
    return mine.sort(mine.columns).equals(other.sort(other.columns))


def _embedded(store: Store, name: str) -> pl.DataFrame | None:
    rows = _rows(embeddings_table(store, name), ["id", "sha256", "status"])
    return rows.filter(pl.col("status") == OK).select(_IMAGE) if rows is not None else None


def _indexed(store: Store, name: str) -> pl.DataFrame | None:
    return _rows(index_table(store, name), _IMAGE)


def _rows(table: Table, columns: list[str]) -> pl.DataFrame | None:
    commit = table.latest()
    if commit is None:
        return None
    rows = table.read(commit, columns=columns)
    return rows.select(columns) if rows.width else None


def _beside(table: Table, commit: Commit, role: str) -> pl.DataFrame | None:
    file = commit.file_with_role(role)
    return table.read_file(file).select(_IMAGE) if file is not None else None


def _select(rows: pl.DataFrame | None, columns: list[str]) -> pl.DataFrame | None:
    return rows.select(columns) if rows is not None else None


def _counts(rows: pl.DataFrame | None) -> dict[str, int]:
    if rows is None:
        return {}
    return dict(rows["status"].value_counts().sort("status").iter_rows())


def _encoder(commit: Commit | None) -> str | None:
    return encoder_from_commit(commit).describe() if commit is not None else None
