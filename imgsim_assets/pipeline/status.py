"""The status of what a store holds: counts, failures, freshness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import polars as pl

from imgsim_assets.catalog.stage import items_table, rejected_images, rejects_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import FINGERPRINT, encoder_from_commit
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, FormatError
from imgsim_assets.index.stage import index_table
from imgsim_assets.pipeline import freshness
from imgsim_assets.pipeline.freshness import Freshness, read_columns
from imgsim_assets.pipeline.group_checks import suspicious_groups
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
from imgsim_assets.storage.table import Table

_GRAPH = "similarity_graph"
_UNKNOWN: Freshness = "unknown"
_NOT_KNOWN: tuple[int | None, int | None] = (None, None)
_LEDGER = {"status": pl.String, "retryable": pl.Boolean}
_EMBEDDINGS = {"id": pl.String, "status": pl.String}
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class CatalogStatus:
    """The status of one catalog.

    Attributes:
        name: the catalog.
        items: rows of `<name>/items`. This and other counts are None where a damaged file keeps
            them from being known.
        usable_items: items that have an image with a vector.
        rejects: rows of the source that were rejected.
        rejected_images: images of other rows that were rejected.
        images: images that were fetched.
        vectors: images that have a vector.
        failures: images that were not fetched or have no vector, by status, as far as known.
        fetch_failures: images that were not fetched, by status, as far as known.
        retryable: failed images that a later run tries again.
        encoder: the encoder that made the vectors; None without vectors.
        stages: whether each stage has what the stage before it gives now. Images and embeddings
            always, an index and similarity graphs where there are any.
        recalls: of approximate similarity graphs, on a sample; None where nothing was measurable.
    """

    name: str
    items: int | None
    usable_items: int | None
    rejects: int | None
    rejected_images: int | None
    images: int | None
    vectors: int | None
    failures: Mapping[str, int]
    fetch_failures: Mapping[str, int]
    retryable: int | None
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
    measurable, and for exact ones. `groups` and `suspicious` are None where a damaged file keeps
    them from being known.
    """

    table: str
    catalogs: tuple[str, ...]
    threshold: float
    groups: int | None
    grouped: int
    suspicious: int | None
    freshness: Freshness
    method: str
    recall: float | None


@dataclass(frozen=True)
class StoreStatus:
    """The status of all tables of a store, or of those of some catalogs.

    `problems` are messages about damaged files, and about tables of another format. What they keep
    from being known is None or left out, and `Freshness` is unknown. All files of the newest
    versions are there with their sizes; of graphs, match tables and indexes only the ids and hashes
    are read, and no vector.
    """

    catalogs: list[CatalogStatus]
    matches: list[MatchStatus]
    groups: list[GroupStatus]
    problems: list[str]


class _Problems:
    """Goes on where a file is damaged, and keeps each message once."""

    def __init__(self) -> None:
        self.messages: dict[str, None] = {}

    def read(self, default: _Value, read: Callable[[], _Value]) -> _Value:
        """What is read, or the default."""
        try:
            return read()
        except (CorruptFileError, FormatError) as error:
            self.messages[str(error)] = None
            return default


class _Strict(_Problems):
    """Raises every error."""

    def read(self, default: _Value, read: Callable[[], _Value]) -> _Value:
        """What is read."""
        return read()


def store_status(store: Store, catalogs: Collection[str] = ()) -> StoreStatus:
    """The status of some catalogs and of what is computed from them; by default of all.

    A damaged file keeps nothing else from being reported.
    """
    problems = _Problems()
    matches: list[MatchStatus] = []
    groups: list[GroupStatus] = []
    for name in store.table_names():
        is_matches = name.startswith(MATCHES)
        if not is_matches and not _is_groups(name):
            continue
        commit = problems.read(None, store.table(name).latest)
        if commit is None or (catalogs and _inputs(commit).isdisjoint(catalogs)):
            continue
        if is_matches:
            matches.append(_match_status(store, commit, problems))
        else:
            groups.append(_group_status(store, commit, problems))
    statuses = [catalog_status(store, name, problems) for name in catalogs or catalog_names(store)]
    return StoreStatus(statuses, matches, groups, list(problems.messages))


def _inputs(commit: Commit) -> set[str]:
    """The catalogs of a match table or of duplicate groups."""
    settings = commit.properties
    return set(
        settings["catalogs"] if "catalogs" in settings else (settings["left"], settings["right"])
    )


def catalog_names(store: Store) -> list[str]:
    """The names of the catalogs that the store holds, sorted."""
    return sorted(
        name.removesuffix("/images")
        for name in store.table_names()
        if name.endswith("/images") and name.count("/") == 1
    )


def catalog_status(store: Store, name: str, problems: _Problems | None = None) -> CatalogStatus:
    """The status of one catalog.

    Raises:
        CorruptFileError: A file is damaged, and nothing collects problems.
    """
    found = problems or _Strict()
    ledger = found.read(None, partial(_read_or_empty, ledger_table(store, name), _LEDGER))
    embeddings = found.read(
        None, partial(_read_or_empty, embeddings_table(store, name), _EMBEDDINGS)
    )
    rejects = found.read(_NOT_KNOWN, partial(_rejected, store, name))
    fetched, failed = _by_status(ledger)
    embedded, undecoded = _by_status(embeddings)
    return CatalogStatus(
        name=name,
        items=found.read(None, lambda: _rows_of(items_table(store, name).latest())),
        usable_items=embedded["id"].n_unique() if embedded is not None else None,
        rejects=rejects[0],
        rejected_images=rejects[1],
        images=fetched.height if fetched is not None else None,
        vectors=embedded.height if embedded is not None else None,
        failures=dict(Counter(_counts(failed)) + Counter(_counts(undecoded))),
        fetch_failures=_counts(failed),
        retryable=int(failed["retryable"].sum()) if failed is not None else None,
        encoder=found.read(None, lambda: _encoder(embeddings_table(store, name).latest())),
        stages=_stages(store, name, found),
        recalls=_recalls(store, name, found),
    )


def _read_or_empty(table: Table, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Columns of the newest version of a table; no rows without one."""
    rows = read_columns(table, list(columns))
    return pl.DataFrame(schema=columns) if rows is None else rows


def _by_status(rows: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.DataFrame] | tuple[None, None]:
    """The rows that are ok, and those that failed."""
    if rows is None:
        return None, None
    return rows.filter(pl.col("status") == OK), rows.filter(pl.col("status") != OK)


def _rows_of(commit: Commit | None) -> int:
    return commit.rows if commit is not None else 0


def _rejected(store: Store, name: str) -> tuple[int | None, int | None]:
    """How many rows of the source were rejected, and how many images of other rows."""
    commit = _newest(rejects_table(store, name))
    images = rejected_images(commit) if commit is not None else 0
    return _rows_of(commit) - images, images


def _stages(store: Store, name: str, problems: _Problems) -> dict[str, Freshness]:
    computed: dict[str, Callable[[], Freshness | None]] = {
        "images": partial(freshness.images_freshness, store, name),
        "embeddings": partial(_embeddings_freshness, store, name),
        "index": partial(_index_freshness, store, name),
    }
    computed |= {
        stage: partial(_graph_freshness, store, name, variant)
        for stage, variant in _variants(store, name, _GRAPH)
    }
    stages: dict[str, Freshness | None] = {
        stage: problems.read(_UNKNOWN, read) for stage, read in computed.items()
    }
    return {stage: found for stage, found in stages.items() if found is not None}


def _embeddings_freshness(store: Store, name: str) -> Freshness:
    commit = embeddings_table(store, name).latest()
    if commit is not None:
        _newest(VectorTable(store, name, commit.properties[FINGERPRINT]).table)
    return freshness.embeddings_freshness(store, name)


def _newest(table: Table) -> Commit | None:
    """The newest version of a table, of which all files are there."""
    commit = table.latest()
    if commit is not None:
        table.check_files_exist(commit, of_all_roles=True)
    return commit


def _index_freshness(store: Store, name: str) -> Freshness | None:
    """None where a match table needs no index of its left catalog."""
    if _newest(index_table(store, name)) is None:
        return None
    return freshness.index_freshness(store, name)


def _graph_freshness(store: Store, name: str, variant: str | None) -> Freshness | None:
    table = graph_table(store, name, variant)
    commit = _newest(table)
    index = freshness.indexed(store, name)
    return freshness.result_freshness(table, commit, index, index) if commit is not None else None


def _recalls(store: Store, name: str, problems: _Problems) -> dict[str, float | None]:
    recalls = {}
    for stage, variant in _variants(store, name, _GRAPH):
        commit = problems.read(None, graph_table(store, name, variant).latest)
        if commit is not None and (recall := recall_of(commit)) is not None:
            recalls[stage] = recall.value
    return recalls


def _variants(store: Store, name: str, kind: str) -> Iterator[tuple[str, str | None]]:
    """The tables of a kind that a catalog has, each with its variant."""
    for table in store.table_names():
        stage = table.removeprefix(f"{name}/")
        if stage != table and stage.partition(".")[0] == kind:
            yield stage, stage.partition(".")[2] or None


def _match_status(store: Store, commit: Commit, problems: _Problems) -> MatchStatus:
    table, settings = store.table(commit.table), commit.properties

    def computed_freshness() -> Freshness:
        table.check_files_exist(commit, of_all_roles=True)
        left = freshness.embedded(store, settings["left"])
        right = freshness.indexed(store, settings["right"])
        return freshness.matches_freshness(store, table, commit, left, right)

    name = commit.table.removeprefix(MATCHES)
    return MatchStatus(
        name=name,
        left=settings["left"],
        right=settings["right"],
        mode=settings["mode"],
        threshold=settings["threshold"],
        matches=commit.rows,
        freshness=problems.read(_UNKNOWN, computed_freshness),
        precision=problems.read(None, partial(match_precision, store, name)),
        by_decisions=problems.read(None, partial(threshold_of, store, commit)),
        method=settings.get(METHOD, EXACT),
        recall=_recall(commit),
    )


def _is_groups(table: str) -> bool:
    """Whether a table has duplicate groups, of one catalog or of several."""
    kind, _, rest = table.partition("/")
    return CROSS_CATALOG_GROUPS in (kind, rest.partition(".")[0])


def _group_status(store: Store, commit: Commit, problems: _Problems) -> GroupStatus:
    table = store.table(commit.table)

    def computed_freshness() -> Freshness:
        table.check_files_exist(commit, of_all_roles=True)
        return freshness.groups_freshness(store, table, commit)

    def count() -> int:
        return table.read(commit, columns=["group_id"])["group_id"].n_unique()

    return GroupStatus(
        table=table.name,
        catalogs=tuple(commit.properties["catalogs"]),
        threshold=commit.properties["threshold"],
        groups=problems.read(None, count),
        grouped=commit.rows,
        suspicious=problems.read(
            None, lambda: suspicious_groups(table, commit, CheckSettings()).height
        ),
        freshness=problems.read(_UNKNOWN, computed_freshness),
        method=commit.properties.get(METHOD, EXACT),
        recall=_recall(commit),
    )


def _recall(commit: Commit) -> float | None:
    recall = recall_of(commit)
    return None if recall is None else recall.value


def _counts(rows: pl.DataFrame | None) -> dict[str, int]:
    if rows is None:
        return {}
    return dict(rows["status"].value_counts().sort("status").iter_rows())


def _encoder(commit: Commit | None) -> str | None:
    return encoder_from_commit(commit).describe() if commit is not None else None
