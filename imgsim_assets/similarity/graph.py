"""The graph stage: the edges `<name>/similarity_graph` from items to their neighbors."""

from __future__ import annotations

import time
from dataclasses import dataclass

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.threshold import resolve_threshold
from imgsim_assets.index.stage import drops_of
from imgsim_assets.similarity import items
from imgsim_assets.similarity.cosine import distances
from imgsim_assets.similarity.materialized import LISTS, State, updated
from imgsim_assets.similarity.pairs import LEAST, Question, best, with_rank
from imgsim_assets.similarity.settings import GraphSettings
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
    threshold: float | None
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


def graph_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/similarity_graph`; see SCHEMA.

    A `variant` has a table of its own beside the one that the catalog declares.
    """
    return store.table(f"{name}/similarity_graph" + (f".{variant}" if variant else ""))


def update_graph(
    store: Store, name: str, settings: GraphSettings, *, variant: str | None = None
) -> GraphReport:
    """Bring a catalog's graph up to its index, and commit it to its `graph_table`.

    Every item has an edge to each of its k nearest other items (fewer where a threshold
    leaves fewer), ties by id. Raises StoreError when there is no index, or no report that says
    what threshold auto is.
    """
    started = time.monotonic()
    table = graph_table(store, name, variant)
    newest = table.latest()
    index_commit, nodes = items.from_index(store, name)
    fingerprint = index_commit.properties[FINGERPRINT]
    threshold = resolve_threshold(store, settings.threshold, [(name, index_commit)])
    recipe = {
        "k": settings.k,
        "threshold": threshold,
        FINGERPRINT: fingerprint,
        **items.drops(drops_of(index_commit)),
    }
    question = Question(LEAST if threshold is None else threshold, settings.k, others_only=True)
    state = State.of(table, newest, recipe)
    if state.base is not None and state.is_current(nodes, nodes):
        commit = state.base
        edges, incremental = state.table.read(commit), True
    else:
        known = state.answer(LISTS)
        incremental = known is not None
        lists = updated(known, nodes, nodes, question)
        edges = _edges(lists, question)
        files = [state.table.write_rows(edges), state.table.write_rows(lists, role=LISTS)]
        committed = state.commit(files, nodes, nodes, {f"{name}/index": index_commit.version})
        if committed is None:
            return update_graph(store, name, settings, variant=variant)
        commit = committed
    return GraphReport(
        version=commit.version,
        edges=edges.height,
        items=len(nodes),
        k=settings.k,
        threshold=threshold,
        incremental=incremental,
        seconds=time.monotonic() - started,
        changed=state.newest is None or commit.version != state.newest.version,
        data_version=rows_digest(nodes.keys, str(recipe)),
        fingerprint=fingerprint,
    )


def _edges(lists: pl.DataFrame, question: Question) -> pl.DataFrame:
    pairs = best(lists, question)
    apart = pl.Series("distance", distances(pairs["similarity"].to_numpy()), dtype=pl.Float64)
    named = with_rank(pairs).with_columns(apart).rename({"left_id": "src_id", "right_id": "dst_id"})
    return named.select(list(SCHEMA))
