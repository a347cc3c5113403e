"""The graph stage: the edges `<name>/similarity_graph` from items to their neighbours."""

from __future__ import annotations

import time
from dataclasses import dataclass

import polars as pl

from imgsim_assets.encoders.stage import FINGERPRINT
from imgsim_assets.similarity import items
from imgsim_assets.similarity.cosine import distances
from imgsim_assets.similarity.pairs import LEAST, Question, best, with_rank
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.similarity.state import LISTS, State, updated
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "src_id": pl.String,
    "dst_id": pl.String,
    "similarity": pl.Float64,
    "distance": pl.Float64,
    "rank": pl.Int32,
}


@dataclass(frozen=True)
class GraphReport:
    """What a run did. `incremental` means that an earlier graph was updated."""

    version: int
    edges: int
    items: int
    k: int
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


def graph_table(store: Store, name: str) -> Table:
    """`<name>/similarity_graph`; see SCHEMA."""
    return store.table(f"{name}/similarity_graph")


def update_graph(store: Store, name: str, settings: GraphSettings) -> GraphReport:
    """Bring a catalogue's graph up to its index, and commit it.

    Every item has an edge to each of its k nearest other items (fewer where a threshold
    leaves fewer), ties by id. Raises StoreError when there is no index.
    """
    started = time.monotonic()
    index_commit, nodes = items.from_index(store, name)
    recipe = {
        "k": settings.k,
        "threshold": settings.threshold,
        FINGERPRINT: index_commit.properties[FINGERPRINT],
    }
    state = State.of(graph_table(store, name), recipe)
    if state.base is not None and state.is_current(nodes, nodes):
        commit = state.base
        edges = state.table.read(commit)
    else:
        lists = updated(state.answer(LISTS), nodes, nodes, _question(settings))
        edges = _edges(lists, settings)
        files = [state.table.write_rows(edges), state.table.write_rows(lists, role=LISTS)]
        commit = state.commit(files, nodes, nodes, {f"{name}/index": index_commit.version})
    return GraphReport(
        version=commit.version,
        edges=edges.height,
        items=len(nodes),
        k=settings.k,
        incremental=state.base is not None,
        seconds=time.monotonic() - started,
        changed=state.newest is None or commit.version != state.newest.version,
        data_version=rows_digest(nodes.keys, str(recipe)),
        fingerprint=index_commit.properties[FINGERPRINT],
    )


def _question(settings: GraphSettings) -> Question:
    threshold = LEAST if settings.threshold is None else settings.threshold
    return Question(threshold, settings.k, others_only=True)


def _edges(lists: pl.DataFrame, settings: GraphSettings) -> pl.DataFrame:
    pairs = best(lists, _question(settings))
    apart = pl.Series("distance", distances(pairs["similarity"].to_numpy()), dtype=pl.Float64)
    named = with_rank(pairs).with_columns(apart).rename({"left_id": "src_id", "right_id": "dst_id"})
    return named.select(list(SCHEMA))
