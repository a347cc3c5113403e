"""The match stage: the table `matches/<name>` of similar items of two catalogs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import Precision, in_random_order, precision_of
from imgsim_assets.reviews.table import read_reviews, reviews_table
from imgsim_assets.similarity import items
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.decided import NOTHING_DECIDED, DecidedPairs
from imgsim_assets.similarity.decided_threshold import DecidedThreshold
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
from imgsim_assets.similarity.item_pairs import in_order, item_pairs, swapped
from imgsim_assets.similarity.items import ORIENTATION, Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import (
    NEIGHBOR_LISTS,
    ORIENTATIONS_PROPERTY,
    MaterializedResult,
    ResultUpdate,
)
from imgsim_assets.similarity.mean_best import mean_best
from imgsim_assets.similarity.neighbor_lists import neighbor_lists, with_rank
from imgsim_assets.similarity.orientations import TurnedCatalogs, with_names
from imgsim_assets.similarity.population import (
    CHANGED_BY_DECISIONS,
    changes_by_decisions,
    matches_before_decisions,
)
from imgsim_assets.similarity.review_threshold import (
    BY_DECISIONS,
    JudgedBudget,
    resolve_by_decisions,
)
from imgsim_assets.similarity.selection import (
    common_images,
    left_out_counts,
    select_images,
    shared_images,
)
from imgsim_assets.similarity.settings import MatchSettings, PairSettings
from imgsim_assets.similarity.threshold import resolve_threshold
from imgsim_assets.similarity.values import WITHIN, items_versions
from imgsim_assets.storage.commit import ROWS, DataFile
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "left_id": pl.String,
    "right_id": pl.String,
    "similarity": pl.Float64,
    "rank": pl.Int32,
    "left_image": pl.Int32,
    "right_image": pl.Int32,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "verdict": pl.String,
}
# The file of the verdicts, with those that were reopened: left_id, right_id and verdict.
DECISIONS = "decisions"
# The file of all pairs of rows above the threshold.
_ROW_PAIRS = "row_pairs"
# Files of the neighbor lists of mode mutual: those of the left items, and of the right ones.
_LEFT_LISTS = "left_neighbor_lists"
_RIGHT_LISTS = "right_neighbor_lists"
# A cost that is positive for every cosine, since scipy treats a stored zero as no edge.
_UNMATCHED_COST = 2.0
# Prefix of the match tables.
MATCHES = "matches/"


@dataclass(frozen=True)
class MatchReport:
    """The outcome of a run. `incremental`: an earlier result was updated.

    Items and images of a side are those with a vector; `left_out` are images that are not
    compared, `shared` those of them that too many items of a side have, and `common` compared ones
    that most items have. `decisions` counts people's verdicts that stand, and `reopened` are those
    about images that have changed. `precision` is that of the matches before decisions, None before
    enough of a random sample is judged; `by_decisions` says how decisions gave the threshold, None
    where they did not.
    `turned` counts the images that were encoded in other orientations, None without orientations.
    `threshold` is the minimum similarity of a match, and `evidence` is None where none is
    computed. `threshold_source` says in words where the threshold comes from.
    """

    version: int
    matches: int
    left_items: int
    right_items: int
    left_images: int
    right_images: int
    left_matched: int
    right_matched: int
    left_out: Mapping[str, int]
    shared: pl.DataFrame
    common: pl.DataFrame
    decisions: Mapping[str, int]
    reopened: pl.DataFrame
    precision: Precision | None
    by_decisions: DecidedThreshold | None
    threshold: float
    threshold_source: str
    threshold_is_measured: bool
    evidence: EvidenceCounts | None
    turned: int | None
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


def match_table(store: Store, name: str) -> Table:
    """`matches/<name>`; see SCHEMA.

    With orientations there is the column ORIENTATION, and with evidence the columns COLUMNS.
    """
    return store.table(f"{MATCHES}{name}")


class MatchStage:
    """Matches the embeddings of a left catalog against the index of a right one."""

    def __init__(
        self,
        store: Store,
        name: str,
        settings: MatchSettings,
        *,
        left: str,
        right: str,
        root: Path = Path(),
        encoders: Mapping[str, EncoderSettings] | None = None,
        log: Log = silent,
    ) -> None:
        """Prepare the stage.

        Args:
            store: the store of the catalogs.
            name: the match table.
            settings: which pairs are matches.
            left: the catalog whose items look for a match.
            right: the catalog they look in.
            root: the project's root, from which the paths of an ignore list start.
            encoders: of the catalogs, as declared, for orientations; by default as recorded.
            log: receives progress messages.
        """
        self.table = match_table(store, name)
        self._turned = TurnedCatalogs(store, encoders, log=log)
        self._store, self._settings, self._root = store, settings, root
        self._left, self._right = left, right

    def run(self) -> MatchReport:
        """Compute the matches incrementally, and commit them to `self.table`.

        Nothing is committed when the matches are current.

        Raises:
            StoreError: when an input is missing, when the vectors of the catalogs are of
                different encoders.
        """
        started = time.monotonic()
        store, settings = self._store, self._settings
        latest = self.table.latest()
        embeddings, left_images = items.from_embeddings(store, self._left)
        index, right_images = items.from_index(store, self._right)
        versions = items_versions(store, [self._left, self._right], settings.within)
        inputs = [(self._left, embeddings), (self._right, index)]
        require_same_encoder(inputs)
        catalogs = [
            CatalogItems(self._left, embeddings, left_images),
            CatalogItems(self._right, index, right_images),
        ]
        resolved = (
            resolve_threshold(
                store,
                settings.threshold,
                settings.false_matches,
                catalogs,
                searched=right_images.count,
                turned=self._turned if settings.orientations else None,
                evidence=settings.evidence.compute,
            )
            if needs_threshold(settings.evidence)
            else BY_EVIDENCE
        )
        left, right = select_images(store, settings, self._root, catalogs)
        fingerprint = embeddings.properties[FINGERPRINT]
        decisions = self._decisions(left_images, right_images)
        by_decisions = None
        if self._may_be_decided:
            asked = JudgedBudget(
                self.table.name.removeprefix(MATCHES), resolved, settings.false_matches, fingerprint
            )
            resolved, by_decisions = resolve_by_decisions(store, asked, left, right, decisions)
        rule = EvidenceRule.of(settings.evidence, resolved.value)
        threshold = rule.min_similarity if rule is not None else resolved.value
        left_rebuilds = VectorTable(store, self._left, fingerprint).rebuild_count
        recipe = {
            "left": self._left,
            "right": self._right,
            "mode": settings.mode,
            "k": settings.k,
            "threshold": threshold,
            CANDIDATES: rule.candidates_recipe if rule is not None else None,
            FINGERPRINT: fingerprint,
            **items.vector_rebuilds(left_rebuilds, rebuild_count(index)),
            **self._turned.recipe({self._left: embeddings} if settings.orientations else {}),
        }
        # Which images are compared changes the rows of the lists, not what a list is; lists
        # within blocks lack the pairs across them.
        list_keys = [*recipe, WITHIN]
        names = {*PairSettings.model_fields} - {ORIENTATIONS_PROPERTY}
        recipe |= settings.model_dump(mode="json", include=names)
        recipe[EVIDENCE_RULE] = rule.recipe if rule is not None else None
        recipe["decisions"] = decisions.digest
        # Whether decisions gave the threshold, which a declared one may equal.
        recipe[BY_DECISIONS] = True if by_decisions is not None else None
        result = MaterializedResult.for_recipe(self.table, latest, recipe, list_keys)
        versions |= {
            f"{self._left}/embeddings": embeddings.version,
            f"{self._right}/index": index.version,
        }
        computed: list[PairEvidence] = []

        def compute() -> tuple[pl.DataFrame, list[DataFile], bool]:
            turned = left
            if settings.orientations:
                turned = self._turned.turned(self._left, embeddings, left)
            decided = DecidedPairs.of(decisions, turned, right, settings.compare)
            if rule is None:
                found = _found_pairs(result, turned, right, settings, threshold, decided)
            else:
                evident = evident_pairs(
                    store,
                    result,
                    turned,
                    right,
                    rule,
                    result.cached_lists(),
                    of_both=settings.mode == "mutual",
                )
                computed.append(evident.evidence)
                pairs = item_pairs(evident.rows, turned, right)
                select = partial(_of_mode, pairs, settings)
                found = _FoundPairs(select, evident.files, evident.incremental)
            pairs = found.select(decided)
            rows = _with_verdicts(pairs, decisions)
            if computed:
                rows = with_evidence(rows, computed[-1].pairs)
            files = [*found.files, *_decision_files(result.table, decisions, decided, found, pairs)]
            return rows, files, found.incremental

        update = result.update(left, right, versions, compute)
        if update is None:
            return self.run()
        rows = update.rows
        identity = rows.drop("similarity", "rank", "verdict")
        return MatchReport(
            version=update.commit.version,
            matches=rows.height,
            left_items=left_images.count,
            right_items=right_images.count,
            left_images=len(left_images),
            right_images=len(right_images),
            left_matched=rows["left_id"].n_unique(),
            right_matched=rows["right_id"].n_unique(),
            left_out=left_out_counts(left, right),
            shared=shared_images({self._left: left, self._right: right}),
            common=common_images({self._left: left, self._right: right}),
            decisions=decisions.counts,
            reopened=decisions.once(decisions.reopened),
            precision=self._precision(update, decisions),
            by_decisions=by_decisions,
            threshold=threshold,
            threshold_source=resolved.source,
            threshold_is_measured=resolved.is_measured,
            evidence=EvidenceCounts.of(rows, computed[0] if computed else None, rule),
            turned=self._turned.encoded if settings.orientations else None,
            incremental=update.incremental,
            seconds=time.monotonic() - started,
            changed=update.commit != latest,
            data_version=rows_digest(identity.cast(pl.String).fill_null(""), str(recipe)),
            fingerprint=fingerprint,
        )

    @property
    def _may_be_decided(self) -> bool:
        """Whether a similarity alone decides, which judged pairs can tell about."""
        settings = self._settings
        is_plain = not settings.evidence.compute and not settings.orientations
        return is_plain and settings.compare != "mean_best" and self._left != self._right

    def _precision(self, update: ResultUpdate, decisions: Decisions) -> Precision | None:
        if not decisions.standing.height:
            return None
        before = matches_before_decisions(self.table, update.commit, update.rows)
        return precision_of(in_random_order(before), decisions)

    def _decisions(self, left: Items, right: Items) -> Decisions:
        """People's decisions about the images that the catalogs have now."""
        return decisions_about(
            self._store,
            self.table.name,
            left.keys,
            right.keys,
            with_itself=self._left == self._right,
        )


def decisions_about(
    store: Store, name: str, left: pl.DataFrame, right: pl.DataFrame, *, with_itself: bool
) -> Decisions:
    """People's decisions about a match table and the variants of it.

    Args:
        store: the store of the table.
        name: the table, such as "matches/products__suppliers".
        left: id and sha256 of the images of the left catalog.
        right: the same of the right catalog.
        with_itself: whether both are one catalog; then (a, b) and (b, a) are one pair.
    """
    table = reviews_table(store, reviewed_name(name))
    reviews = read_reviews(table, table.latest())
    return Decisions.of(reviews, left, right, with_itself=with_itself)


def reviewed_name(table: str) -> str:
    """The name under which a match table is reviewed: without prefix and variant."""
    return table.removeprefix(MATCHES).partition(".")[0]


class _FoundPairs(NamedTuple):
    """The pairs that were found: what is selected of them with some decisions, and their files.

    Attributes:
        select: the pairs that match.
        files: what the next run needs.
        incremental: whether cached lists were used.
    """

    select: Callable[[DecidedPairs], pl.DataFrame]
    files: list[DataFile]
    incremental: bool


def _found_pairs(
    result: MaterializedResult,
    left: Items,
    right: Items,
    settings: MatchSettings,
    threshold: float,
    decided: DecidedPairs,
) -> _FoundPairs:
    """The pairs at the threshold, enough of them that decisions may remove some."""
    k = _k(settings)
    if settings.compare == "mean_best" or k is None:
        pairs, files, incremental = _all_pairs(result, left, right, settings, threshold, decided)
        if settings.compare == "mean_best":
            pairs = mean_best(pairs, left, right, threshold)
        return _FoundPairs(partial(_of_mode, pairs, settings), files, incremental)
    if settings.mode == "mutual":
        return _mutual(result, left, right, threshold, decided)
    depth = k + decided.max_different
    cached = result.cached_lists()
    lists = neighbor_lists(left, right, JoinSpec(threshold, depth), cached)
    pairs = item_pairs(lists, left, right, depth)
    files = [result.table.write_rows(lists, role=NEIGHBOR_LISTS)]
    return _FoundPairs(partial(_of_mode, pairs, settings), files, cached is not None)


def _with_verdicts(pairs: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """The rows of the table, but for the evidence."""
    decided = pairs.join(
        decisions.verdicts, on=["left_id", "right_id"], how="left", maintain_order="left"
    )
    columns = [*SCHEMA, *([ORIENTATION] if ORIENTATION in pairs.columns else [])]
    return with_names(with_rank(decided).select(columns))


def _decision_files(
    table: Table,
    decisions: Decisions,
    decided: DecidedPairs,
    found: _FoundPairs,
    pairs: pl.DataFrame,
) -> list[DataFile]:
    """The files of the verdicts, and of the pairs that they changed; none without any."""
    files = []
    if decisions.verdicts.height:
        files.append(table.write_rows(decisions.verdicts, role=DECISIONS))
    if not decided.is_empty:
        changes = changes_by_decisions(found.select(NOTHING_DECIDED), pairs)
        files.append(table.write_rows(changes, role=CHANGED_BY_DECISIONS))
    return files


def _k(settings: MatchSettings) -> int | None:
    """How many matches a left item has at most; None for no limit."""
    limits = {"all": None, "best": 1, "top_k": settings.k, "mutual": 1, "one_to_one": None}
    return limits[settings.mode]


def _of_mode(pairs: pl.DataFrame, settings: MatchSettings, decided: DecidedPairs) -> pl.DataFrame:
    """Of all pairs of items, in order, those that the mode keeps, after people's decisions."""
    if settings.mode == "mutual":
        return _mutual_pairs(pairs, in_order(swapped(pairs)), decided)
    if settings.mode == "one_to_one":
        return _one_to_one(decided.applied(pairs), decided.matches)
    return decided.applied(pairs, _k(settings))


def _all_pairs(
    result: MaterializedResult,
    left: Items,
    right: Items,
    settings: MatchSettings,
    threshold: float,
    decided: DecidedPairs,
) -> tuple[pl.DataFrame, list[DataFile], bool]:
    """Every pair of items whose best images reach the threshold."""
    # In mode all the rows are the pairs of rows, if each item has one and nothing was decided.
    are_rows = settings.mode == "all" and not result.has_file(_ROW_PAIRS)
    cached = result.cached_lists(ROWS if are_rows else _ROW_PAIRS)
    row_pairs = neighbor_lists(left, right, JoinSpec(threshold), cached)
    pairs = item_pairs(row_pairs, left, right)
    one_each = left.max_images == right.max_images == 1
    files = []
    if settings.mode != "all" or not one_each or not decided.is_empty:
        files = [result.table.write_rows(row_pairs, role=_ROW_PAIRS)]
    return pairs, files, cached is not None


def _mutual(
    result: MaterializedResult,
    left: Items,
    right: Items,
    threshold: float,
    decided: DecidedPairs,
) -> _FoundPairs:
    """Pairs whose members are each other's best."""
    depth = 1 + decided.max_different
    spec = JoinSpec(threshold, depth)
    cached_left = result.cached_lists(_LEFT_LISTS)
    cached_right = result.cached_lists(_RIGHT_LISTS)
    left_lists = neighbor_lists(left, right, spec, cached_left)
    right_lists = neighbor_lists(
        right, left, spec, cached_right.swapped() if cached_right is not None else None
    )
    files = [
        result.table.write_rows(left_lists, role=_LEFT_LISTS),
        result.table.write_rows(right_lists, role=_RIGHT_LISTS),
    ]
    select = partial(
        _mutual_pairs,
        item_pairs(left_lists, left, right, depth),
        item_pairs(right_lists, right, left, depth),
    )
    return _FoundPairs(select, files, cached_left is not None and cached_right is not None)


def _mutual_pairs(
    of_left: pl.DataFrame, of_right: pl.DataFrame, decided: DecidedPairs
) -> pl.DataFrame:
    """The pairs whose members are each other's best, from those of the left and right items."""
    best_right = decided.applied(of_left, k=1)
    best_left = decided.swapped().applied(of_right, k=1)
    return best_right.join(
        best_left, left_on=["left_id", "right_id"], right_on=["right_id", "left_id"], how="semi"
    )


def _one_to_one(pairs: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """The decided matches, and the best matching of the items that are in none."""
    free = pairs.join(decided, on="left_id", how="anti").join(decided, on="right_id", how="anti")
    return in_order(pl.concat([decided, one_to_one(free)], how="diagonal"))


def one_to_one(pairs: pl.DataFrame) -> pl.DataFrame:
    """The matching of greatest total similarity: no item is in more than one pair.

    By scipy's sparse Jonker and Volgenant assignment, where every left item may also be assigned
    to a dummy column that stands for no partner. Pairs of similarity 0 or less never add to the
    total. Pairs are sorted by id first, so that their order does not decide among ties.

    Args:
        pairs: left_id, right_id, similarity.

    Returns:
        The chosen pairs, sorted by left_id.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    useful = pairs.filter(pl.col("similarity") > 0).sort("left_id", "right_id")
    if not useful.height:
        return pairs.clear()
    left, right = (useful[side].unique().sort() for side in ("left_id", "right_id"))
    i, j = left.search_sorted(useful["left_id"]), right.search_sorted(useful["right_id"])
    unmatched = np.arange(len(left))
    rows = np.concatenate([i.to_numpy(), unmatched])
    columns = np.concatenate([j.to_numpy(), unmatched + len(right)])
    costs = np.concatenate(
        [_UNMATCHED_COST - useful["similarity"].to_numpy(), np.full(len(left), _UNMATCHED_COST)]
    )
    shape = (len(left), len(right) + len(left))
    matched_left, matched_right = min_weight_full_bipartite_matching(
        csr_array((costs, (rows, columns)), shape=shape)
    )
    is_pair = matched_right < len(right)
    chosen = pl.DataFrame(
        {
            "left_id": left.gather(matched_left[is_pair]),
            "right_id": right.gather(matched_right[is_pair]),
        }
    )
    return useful.join(chosen, on=["left_id", "right_id"], how="semi").sort("left_id")
