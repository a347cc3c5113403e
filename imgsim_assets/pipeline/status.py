"""The status of what a store holds: counts, failures, freshness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.stage import items_table, rejected_images, rejects_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.index.stage import index_table
from imgsim_assets.pipeline import freshness
from imgsim_assets.pipeline.checks import suspicious_groups
from imgsim_assets.pipeline.freshness import Freshness, read_columns
from imgsim_assets.pipeline.review_pairs import match_precision
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.reviews.sample import Precision
from imgsim_assets.similarity.approximate.search import recall_of
from imgsim_assets.similarity.decided_threshold import DecidedThreshold
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.similarity.matches import MATCHES
from imgsim_assets.similarity.review_threshold import threshold_of
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS, EXACT, METHOD
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

_GRAPH = "similarity_graph"


@dataclass(frozen=True)
class CatalogStatus:
    """The status of one catalog.

    Attributes:
        name: the catalog.
        items: rows of `<name>/items`.
        usable_items: items that have an image with a vector.
        rejects: rows of the source that were rejected.
        rejected_images: images of other rows that were rejected.
        images: images that were fetched.
        vectors: images that have a vector.
        failures: images that were not fetched or have no vector, by status.
        fetch_failures: images that were not fetched, by status.
        retryable: failed images that a later run tries again.
        encoder: the encoder that made the vectors; None without vectors.
        stages: whether each stage has what the stage before it gives now. Images and embeddings
            always, an index and similarity graphs where there are any.
        recalls: of approximate similarity graphs, on a sample; None where nothing was measurable.
    """

    name: str
    items: int
    usable_items: int
    rejects: int
    rejected_images: int
    images: int
    vectors: int
    failures: Mapping[str, int]
    fetch_failures: Mapping[str, int]
    retryable: int
    encoder: str | None
    stages: Mapping[str, Freshness]
    recalls: Mapping[str, float | None]


@dataclass(frozen=True)
class MatchStatus:
    """The status of one match table.

    Attributes:
        name: the match table.
        left: its left catalog.
        right: its right catalog.
        mode: which pairs are matches.
        threshold: the minimum similarity.
        matches: rows of the table.
        freshness: whether it has what its catalogs and the decisions give now.
        precision: of the matches before decisions; None before enough of them are judged.
        by_decisions: how decisions gave the threshold; None where they did not.
        method: exact or approximate.
        recall: of an approximate table, on a sample; None where nothing was measurable, and for an
            exact one.
    """

    name: str
    left: str
    right: str
    mode: str
    threshold: float
    matches: int
    freshness: Freshness
    precision: Precision | None
    by_decisions: DecidedThreshold | None
    method: str
    recall: float | None


@dataclass(frozen=True)
class GroupStatus:
    """The status of one table of duplicate groups: `grouped` items are in `groups` groups.

    `suspicious` groups probably join different images, by the default limits. `method` is that of
    the links, and `recall` that of approximate ones, on a sample; None where nothing was
    measurable, and for exact ones.
    """

    table: str
    catalogs: tuple[str, ...]
    threshold: float
    groups: int
    grouped: int
    suspicious: int
    freshness: Freshness
    method: str
    recall: float | None


def catalog_names(store: Store) -> list[str]:
    """The names of the catalogs that the store holds, sorted."""
    return sorted(
        name.removesuffix("/images")
        for name in store.table_names()
        if name.endswith("/images") and name.count("/") == 1
    )


def catalog_status(store: Store, name: str) -> CatalogStatus:
    """The status of one catalog."""
    items = items_table(store, name).latest()
    ledger = read_columns(ledger_table(store, name), ["status", "retryable"])
    embeddings = read_columns(embeddings_table(store, name), ["id", "status"])
    rejects = rejects_table(store, name).latest()
    embeddings_commit = embeddings_table(store, name).latest()
    failed = ledger.filter(pl.col("status") != OK) if ledger is not None else None
    undecoded = embeddings.filter(pl.col("status") != OK) if embeddings is not None else None
    return CatalogStatus(
        name=name,
        items=items.rows if items is not None else 0,
        usable_items=_usable_items(embeddings),
        rejects=rejects.rows - rejected_images(rejects) if rejects is not None else 0,
        rejected_images=rejected_images(rejects) if rejects is not None else 0,
        images=ledger.height - failed.height if ledger is not None and failed is not None else 0,
        vectors=embeddings.height - undecoded.height
        if embeddings is not None and undecoded is not None
        else 0,
        failures=dict(Counter(_counts(failed)) + Counter(_counts(undecoded))),
        fetch_failures=_counts(failed),
        retryable=int(failed["retryable"].sum()) if failed is not None else 0,
        encoder=_encoder(embeddings_commit),
        stages=_stages(store, name),
        recalls=_recalls(store, name),
    )


def _usable_items(embeddings: pl.DataFrame | None) -> int:
    if embeddings is None:
        return 0
    return embeddings.filter(pl.col("status") == OK)["id"].n_unique()


def _stages(store: Store, name: str) -> dict[str, Freshness]:
    stages = {
        "images": freshness.images_freshness(store, name),
        "embeddings": freshness.embeddings_freshness(store, name),
    }
    # A match table needs no index of its left catalog, and no graph.
    if index_table(store, name).latest() is not None:
        stages["index"] = freshness.index_freshness(store, name)
    index = freshness.indexed(store, name)
    for stage, variant in _variants(store, name, _GRAPH):
        table = graph_table(store, name, variant)
        commit = table.latest()
        if commit is not None:
            stages[stage] = freshness.result_freshness(table, commit, index, index)
    return stages


def _recalls(store: Store, name: str) -> dict[str, float | None]:
    recalls = {}
    for stage, variant in _variants(store, name, _GRAPH):
        commit = graph_table(store, name, variant).latest()
        if commit is not None and (recall := recall_of(commit)) is not None:
            recalls[stage] = recall.value
    return recalls


def _variants(store: Store, name: str, kind: str) -> Iterator[tuple[str, str | None]]:
    """The tables of a kind that a catalog has, each with its variant."""
    for table in store.table_names():
        stage = table.removeprefix(f"{name}/")
        if stage != table and stage.partition(".")[0] == kind:
            yield stage, stage.partition(".")[2] or None


def match_statuses(store: Store) -> list[MatchStatus]:
    """The status of every match table, by name."""
    statuses = []
    for name in store.table_names():
        table = store.table(name)
        commit = table.latest() if name.startswith(MATCHES) else None
        if commit is None:
            continue
        settings = commit.properties
        left = freshness.embedded(store, settings["left"])
        right = freshness.indexed(store, settings["right"])
        statuses.append(
            MatchStatus(
                name=name.removeprefix(MATCHES),
                left=settings["left"],
                right=settings["right"],
                mode=settings["mode"],
                threshold=settings["threshold"],
                matches=commit.rows,
                freshness=freshness.matches_freshness(store, table, commit, left, right),
                precision=match_precision(store, name.removeprefix(MATCHES)),
                by_decisions=threshold_of(store, commit),
                method=commit.properties.get(METHOD, EXACT),
                recall=_recall(commit),
            )
        )
    return statuses


def group_statuses(store: Store) -> list[GroupStatus]:
    """The status of every table of duplicate groups, of one catalog or of several, by name."""
    statuses = []
    for name in store.table_names():
        kind, _, rest = name.partition("/")
        table = store.table(name)
        is_groups = CROSS_CATALOG_GROUPS in (kind, rest.partition(".")[0])
        commit = table.latest() if is_groups else None
        if commit is None:
            continue
        rows = table.read(commit, columns=["group_id"])
        statuses.append(
            GroupStatus(
                table=name,
                catalogs=tuple(commit.properties["catalogs"]),
                threshold=commit.properties["threshold"],
                groups=rows["group_id"].n_unique(),
                grouped=rows.height,
                suspicious=suspicious_groups(table, commit, CheckSettings()).height,
                freshness=freshness.groups_freshness(store, table, commit),
                method=commit.properties.get(METHOD, EXACT),
                recall=_recall(commit),
            )
        )
    return statuses


def _recall(commit: Commit) -> float | None:
    recall = recall_of(commit)
    return None if recall is None else recall.value


def _counts(rows: pl.DataFrame | None) -> dict[str, int]:
    if rows is None:
        return {}
    return dict(rows["status"].value_counts().sort("status").iter_rows())


def _encoder(commit: Commit | None) -> str | None:
    return encoder_from_commit(commit).describe() if commit is not None else None
