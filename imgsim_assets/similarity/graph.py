"""The graph stage: the edges `<name>/similarity_graph` from items to their neighbors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, recorded_name
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.progress import Log, silent
from imgsim_assets.similarity import items
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.approximate.run_warning import warn_of_exact_search
from imgsim_assets.similarity.approximate.search import recall_of, reused_if_found
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.cosine import distances
from imgsim_assets.similarity.evidence.accepted_pairs import (
    BY_EVIDENCE,
    CANDIDATES,
    EvidenceCounts,
    EvidenceRule,
    evident_pairs,
    needs_threshold,
    with_evidence,
)
from imgsim_assets.similarity.evidence.compare_pairs import PairEvidence
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE_RULE
from imgsim_assets.similarity.item_pairs import best_of_each, item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import MIN_COSINE, JoinSpec
from imgsim_assets.similarity.materialized import (
    NEIGHBOR_LISTS,
    ORIENTATIONS_PROPERTY,
    Computed,
    MaterializedResult,
)
from imgsim_assets.similarity.mean_best import mean_best
from imgsim_assets.similarity.neighbor_lists import ListBlock, with_rank
from imgsim_assets.similarity.orientations import TurnedCatalogs, with_names
from imgsim_assets.similarity.selection import (
    common_images,
    left_out_counts,
    select_images,
    shared_images,
)
from imgsim_assets.similarity.settings import METHOD, MIN_RECALL, GraphSettings, PairSettings
from imgsim_assets.similarity.threshold import resolve_threshold
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.similarity.values import WITHIN, items_versions
from imgsim_assets.storage.commit import ROWS, DataFile
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "src_id": pl.String,
    "dst_id": pl.String,
    "similarity": pl.Float64,
    "distance": pl.Float64,
    "rank": pl.Int32,
    "src_image": pl.Int32,
    "dst_image": pl.Int32,
    "src_sha256": pl.String,
    "dst_sha256": pl.String,
}

_COLUMNS = {
    f"{side}_{column}": f"{end}_{column}"
    for side, end in (("left", "src"), ("right", "dst"))
    for column in ("id", "image", "sha256")
}
# The file of all pairs of rows above the threshold.
_ROW_PAIRS = "row_pairs"


@dataclass(frozen=True)
class GraphReport:
    """The outcome of a run. `incremental`: an earlier graph was updated.

    Items and images are those with a vector; `left_out` are images that are not compared,
    `shared` those of them that too many items have, and `common` compared ones that most items
    have. `evidence` is None where none is computed. `turned` counts the images that were encoded
    in other orientations, None without orientations. `recall` is that of an approximate result, and
    `exact_seconds` the estimated time of a large exact computation; both are None otherwise.
    `encoder` is that of the vectors, in words. `device` says where joins ran.
    """

    version: int
    edges: int
    items: int
    images: int
    left_out: Mapping[str, int]
    shared: pl.DataFrame
    common: pl.DataFrame
    k: int
    threshold: float | None
    threshold_source: str
    threshold_is_measured: bool
    evidence: EvidenceCounts | None
    recall: Recall | None
    exact_seconds: float | None
    turned: int | None
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    encoder: str
    fingerprint: str
    device: str = "not needed"


def graph_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/similarity_graph`; see SCHEMA, and with orientations the column ORIENTATION.

    A `variant` has a table of its own beside the one that the catalog declares.
    """
    return store.table(f"{name}/similarity_graph" + (f".{variant}" if variant else ""))


class GraphStage:
    """Updates the similarity graph of a catalog to match its index."""

    def __init__(
        self,
        store: Store,
        name: str,
        settings: GraphSettings,
        *,
        variant: str | None = None,
        root: Path = Path(),
        encoder: EncoderSettings | None = None,
        log: Log = silent,
    ) -> None:
        """Prepare the stage.

        Args:
            store: the store of the catalog.
            name: the catalog.
            settings: which edges the graph has.
            variant: writes the graph to a table of its own.
            root: the project's root, from which the paths of an ignore list start.
            encoder: of the catalog, as declared, for orientations; by default as recorded.
            log: receives progress messages.
        """
        self._turned = TurnedCatalogs(store, {name: encoder} if encoder else {}, log=log)
        self.table = graph_table(store, name, variant)
        self._store, self._name, self._settings, self._root = store, name, settings, root
        self._log = log

    def run(self) -> GraphReport:
        """Compute the edges incrementally, and commit them to `self.table`.

        Every item has an edge to each of its k nearest other items (fewer where a threshold
        leaves fewer), ties by id. Nothing is committed when the graph is current.

        Raises:
            StoreError: when there is no index.
        """
        started = time.monotonic()
        latest = self.table.latest()
        index, images = items.from_index(self._store, self._name)
        inputs = items_versions(self._store, [self._name], self._settings.within)
        catalog = CatalogItems(self._name, index, images)
        selection = select_images(
            self._store, self._settings, self._root, [catalog], table=self.table, latest=latest
        )
        (nodes,) = selection.items
        fingerprint = index.properties[FINGERPRINT]
        k = self._settings.k
        resolved = (
            resolve_threshold(
                self._store,
                self._settings.threshold,
                self._settings.false_matches,
                [catalog],
                searched=images.count,
                turned=self._turned if self._settings.orientations else None,
                evidence=self._settings.evidence.compute,
            )
            if needs_threshold(self._settings.evidence)
            else BY_EVIDENCE
        )
        rule = EvidenceRule.of(self._settings.evidence, resolved.value)
        if rule is not None:
            threshold: float | None = rule.min_similarity
        else:
            threshold = None if self._settings.threshold is None else resolved.value
        recipe = {
            "k": k,
            "threshold": threshold,
            CANDIDATES: rule.candidates_recipe if rule is not None else None,
            FINGERPRINT: fingerprint,
            **items.vector_rebuilds(rebuild_count(index)),
            **self._turned.recipe({self._name: index} if self._settings.orientations else {}),
        }
        # Which images are compared changes the rows of the lists, not what a list is; lists
        # within blocks lack the pairs across them.
        list_keys = [*recipe, WITHIN, METHOD, MIN_RECALL]
        names = {*PairSettings.model_fields} - {ORIENTATIONS_PROPERTY}
        recipe |= self._settings.model_dump(mode="json", include=names)
        recipe[EVIDENCE_RULE] = rule.recipe if rule is not None else None
        made_by = {**recipe, **selection.recipe}
        result = MaterializedResult.for_recipe(self.table, latest, made_by, list_keys)
        result = reused_if_found(result)
        inputs |= {f"{self._name}/index": index.version}
        computed: list[PairEvidence] = []
        expected: list[float | None] = []

        def compute() -> Computed:
            rows = nodes
            if self._settings.orientations:
                rows = self._turned.turned(self._name, index, nodes)
            expected.append(warn_of_exact_search(result, rows, nodes, self._log))
            if rule is None:
                return _write_edges(result, rows, nodes, self._settings, threshold)
            found = evident_pairs(
                self._store, result, rows, nodes, rule, result.cached_lists(), exclude_self=True
            )
            computed.append(found.evidence)
            pairs = item_pairs(found.rows, rows, nodes, k)
            edges = _described(with_evidence(pairs, found.evidence.pairs))
            return Computed([result.write_block(edges), *found.files], found.incremental)

        update = result.update(nodes, nodes, inputs, compute)
        if update is None:
            return self.run()
        return GraphReport(
            version=update.commit.version,
            edges=update.commit.rows,
            items=images.count,
            images=len(images),
            left_out=left_out_counts(nodes),
            shared=shared_images({self._name: nodes}),
            common=common_images({self._name: nodes}),
            k=k,
            threshold=threshold,
            threshold_source=resolved.source,
            threshold_is_measured=resolved.is_measured,
            evidence=EvidenceCounts.of_update(update, computed, rule),
            recall=recall_of(update.commit),
            exact_seconds=expected[0] if expected else None,
            turned=self._turned.encoded if self._settings.orientations else None,
            incremental=update.incremental,
            seconds=time.monotonic() - started,
            changed=update.commit != latest,
            data_version=_digest(nodes.recorded, str(recipe)),
            encoder=recorded_name(index),
            fingerprint=fingerprint,
        )


def _digest(images: RowBlocks, context: str) -> str:
    digest = RowsDigest(len(images.columns), context)
    for _, block in images.blocks():
        digest.update(block.cast(pl.String).fill_null(""))
    return digest.hexdigest()


def _write_edges(
    result: MaterializedResult,
    rows: Items,
    nodes: Items,
    settings: GraphSettings,
    threshold: float | None,
) -> Computed:
    """Write the edges and the neighbor lists they come from, block by block.

    `rows` are the nodes as their neighbors are searched: in all orientations, or as they are.
    """
    minimum = MIN_COSINE if threshold is None else threshold
    # A mean can rank the items in another order than the best pairs of images do.
    is_mean = settings.compare == "mean_best"
    role = _ROW_PAIRS if is_mean else NEIGHBOR_LISTS
    spec = JoinSpec(minimum, None if is_mean else settings.k, exclude_self=True)
    keeps_rows = result.keeps_rows(nodes, nodes, are_means=is_mean)
    write = _EdgeWriter(result, rows, nodes, settings.k, minimum, is_mean, keeps_rows)
    cached = result.cached_lists(role)
    lists = updated_lists(result, rows, nodes, spec, write, role=role, cached=cached)
    return Computed([*lists.results, *lists.files], lists.incremental)


@dataclass(frozen=True)
class _EdgeWriter:
    """Writes the edges of a block of neighbor lists.

    `keeps_rows` says whether unchanged lists have the edges of the current commit.
    """

    result: MaterializedResult
    rows: Items
    nodes: Items
    k: int
    minimum: float
    is_mean: bool
    keeps_rows: bool

    def __call__(self, lists: ListBlock) -> DataFile:
        block = lists.block
        if lists.is_unchanged and self.keeps_rows:
            file = self.result.file_of(ROWS, block)
            if file is not None:
                return file
        sources = self.rows.slice(block.start, block.stop)
        pairs = item_pairs(lists.lists, sources, lists.right, None if self.is_mean else self.k)
        if self.is_mean:
            pairs = best_of_each(mean_best(pairs, sources, lists.right, self.minimum), self.k)
        return self.result.write_block(_described(pairs), ROWS, block)


def _described(pairs: pl.DataFrame) -> pl.DataFrame:
    """The edges of pairs of items, in order; further columns are kept."""
    distance = pl.Series("distance", distances(pairs["similarity"].to_numpy()), dtype=pl.Float64)
    edges = with_names(with_rank(pairs).with_columns(distance).rename(_COLUMNS))
    return edges.select(*SCHEMA, pl.exclude(list(SCHEMA)))
