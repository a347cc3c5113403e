"""The status of a store's catalogs and match tables: counts, failures, freshness."""

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
from imgsim_assets.pipeline.checks import missing_and_stale
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

Freshness = Literal["fresh", "stale", "missing"]
_IMAGE = ["id", "sha256"]


@dataclass(frozen=True)
class CatalogStatus:
    """The status of one catalog.

    Attributes:
        name: the catalog.
        items: rows of `<name>/items`.
        rejects: rows of the source that were rejected.
        images: items that have an image.
        vectors: items that have a vector.
        failures: items without an image or a vector, by status.
        retryable: failed items that a later run tries again.
        encoder: the encoder that made the vectors; None without vectors.
        stages: whether each stage has what the stage before it gives now.
    """

    name: str
    items: int
    rejects: int
    images: int
    vectors: int
    failures: Mapping[str, int]
    retryable: int
    encoder: str | None
    stages: Mapping[str, Freshness]


@dataclass(frozen=True)
class MatchStatus:
    """The status of one match table."""

    name: str
    left: str
    right: str
    mode: str
    threshold: float
    matches: int
    freshness: Freshness


def catalog_names(store: Store) -> list[str]:
    """The names of the catalogs that the store holds, sorted."""
    return sorted(
        name.removesuffix("/images")
        for name in store.table_names()
        if name.endswith("/images") and name.count("/") == 1
    )


def catalog_status(store: Store, name: str) -> CatalogStatus:
    """The status of one catalog."""
    items = _rows(items_table(store, name), ["id", "url"])
    ledger = _rows(ledger_table(store, name), ["id", "url", "status", "retryable", "sha256"])
    embeddings = _rows(embeddings_table(store, name), ["id", "sha256", "status"])
    rejects = rejects_table(store, name).latest()
    embeddings_commit = embeddings_table(store, name).latest()
    failed = ledger.filter(pl.col("status") != OK) if ledger is not None else None
    undecoded = embeddings.filter(pl.col("status") != OK) if embeddings is not None else None
    return CatalogStatus(
        name=name,
        items=items.height if items is not None else 0,
        rejects=rejects.rows if rejects is not None else 0,
        images=ledger.height - failed.height if ledger is not None and failed is not None else 0,
        vectors=embeddings.height - undecoded.height
        if embeddings is not None and undecoded is not None
        else 0,
        failures={**_counts(failed), **_counts(undecoded)},
        retryable=int(failed["retryable"].sum()) if failed is not None else 0,
        encoder=_encoder(embeddings_commit),
        stages=_stages(store, name, items, ledger, embeddings),
    )


def match_statuses(store: Store) -> list[MatchStatus]:
    """The status of every match table, by name."""
    statuses = []
    for name in store.table_names():
        commit = store.table(name).latest() if name.startswith("matches/") else None
        if commit is None:
            continue
        settings = commit.properties
        current_inputs = {
            LEFT_ITEMS: _embedded(store, settings["left"]),
            RIGHT_ITEMS: _indexed(store, settings["right"]),
        }
        is_fresh = all(
            _same(_items_used(store.table(name), commit, role), rows)
            for role, rows in current_inputs.items()
        )
        statuses.append(
            MatchStatus(
                name=name.removeprefix("matches/"),
                left=settings["left"],
                right=settings["right"],
                mode=settings["mode"],
                threshold=settings["threshold"],
                matches=commit.rows,
                freshness="fresh" if is_fresh else "stale",
            )
        )
    return statuses


def _stages(
    store: Store,
    name: str,
    items: pl.DataFrame | None,
    ledger: pl.DataFrame | None,
    embeddings: pl.DataFrame | None,
) -> dict[str, Freshness]:
    """Whether each stage's rows are those that the stage before it gives now."""
    fetched = ledger.filter(pl.col("status") == OK).select(_IMAGE) if ledger is not None else None
    graph = graph_table(store, name)
    commit = graph.latest()
    nodes = _items_used(graph, commit, LEFT_ITEMS) if commit is not None else None
    return {
        "images": _freshness(_select(ledger, ["id"]), _select(items, ["id"])),
        "embeddings": _freshness(_select(embeddings, _IMAGE), fetched),
        "index": _freshness(_indexed(store, name), _embedded(store, name)),
        "similarity_graph": _freshness(nodes, _indexed(store, name)),
    }


def _freshness(actual: pl.DataFrame | None, expected: pl.DataFrame | None) -> Freshness:
    if actual is None:
        return "missing"
    return "fresh" if _same(actual, expected) else "stale"


def _same(actual: pl.DataFrame | None, expected: pl.DataFrame | None) -> bool:
    if actual is None or expected is None:
        return actual is expected
    return missing_and_stale(actual, expected) == (0, 0)


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


def _items_used(table: Table, commit: Commit, role: str) -> pl.DataFrame | None:
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
