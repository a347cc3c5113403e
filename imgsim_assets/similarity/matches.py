"""The match stage: the table `matches/<name>` of similar items of two catalogs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, recorded_name, require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import Precision, in_random_order, precision_of
from imgsim_assets.reviews.table import read_reviews, reviews_table
from imgsim_assets.similarity import items
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.approximate.run_warning import warn_of_exact_search
from imgsim_assets.similarity.approximate.search import (
    recall_of,
    reused_if_found,
)
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
)
from imgsim_assets.similarity.evidence.compare_pairs import PairEvidence
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE_RULE
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.match_modes import of_mode
from imgsim_assets.similarity.match_rows import DECISIONS, MatchSummary, MatchWriter
from imgsim_assets.similarity.match_search import MatchSearch
from imgsim_assets.similarity.materialized import (
    ORIENTATIONS_PROPERTY,
    Computed,
    MaterializedResult,
    ResultUpdate,
)
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.population import matches_before_decisions
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
from imgsim_assets.similarity.settings import METHOD, MIN_RECALL, MatchSettings, PairSettings
from imgsim_assets.similarity.threshold import resolve_threshold
from imgsim_assets.similarity.values import WITHIN, items_versions
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

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
    `recall` is that of an approximate result, and `exact_seconds` the estimated time of a large
    exact computation; both are None otherwise.
    `threshold` is the minimum similarity of a match, and `evidence` is None where none is
    computed. `threshold_source` says in words where the threshold comes from.
    `encoder` is that of the vectors, in words. `device` says where joins ran.
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


def match_table(store: Store, name: str) -> Table:
    """`matches/<name>`; see match_rows.SCHEMA.

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
        self._store, self._settings, self._root, self._log = store, settings, root, log
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
        selection = select_images(
            store, settings, self._root, catalogs, table=self.table, latest=latest
        )
        left, right = selection.items
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
        list_keys = [*recipe, WITHIN, METHOD, MIN_RECALL]
        names = {*PairSettings.model_fields} - {ORIENTATIONS_PROPERTY}
        recipe |= settings.model_dump(mode="json", include=names)
        recipe[EVIDENCE_RULE] = rule.recipe if rule is not None else None
        recipe[DECISIONS] = decisions.digest
        # Whether decisions gave the threshold, which a declared one may equal.
        recipe[BY_DECISIONS] = True if by_decisions is not None else None
        made_by = {**recipe, **selection.recipe}
        result = MaterializedResult.for_recipe(self.table, latest, made_by, list_keys)
        result = reused_if_found(result)
        versions |= {
            f"{self._left}/embeddings": embeddings.version,
            f"{self._right}/index": index.version,
        }
        computed: list[PairEvidence] = []
        expected: list[float | None] = []

        def compute() -> Computed:
            turned = left
            if settings.orientations:
                turned = self._turned.turned(self._left, embeddings, left)
            expected.append(warn_of_exact_search(result, turned, right, self._log))
            decided = DecidedPairs.of(decisions, turned, right, settings.compare)
            writer = MatchWriter(result, decisions, decided)
            if rule is None:
                return MatchSearch(turned, right, settings, threshold, writer).write()
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
            before = None if decided.is_empty else of_mode(settings, pairs, NOTHING_DECIDED)
            writer = replace(writer, evidence=evident.evidence.pairs)
            written = writer.write(of_mode(settings, pairs, decided), before)
            return Computed([*writer.files([written]), *evident.files], evident.incremental)

        update = result.update(left, right, versions, compute)
        if update is None:
            return self.run()
        summary = MatchSummary.of(self.table, update.commit, str(recipe))
        return MatchReport(
            version=update.commit.version,
            matches=update.commit.rows,
            left_items=left_images.count,
            right_items=right_images.count,
            left_images=len(left_images),
            right_images=len(right_images),
            left_matched=summary.left_matched,
            right_matched=summary.right_matched,
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
            evidence=EvidenceCounts.of_update(update, computed, rule),
            recall=recall_of(update.commit),
            exact_seconds=expected[0] if expected else None,
            turned=self._turned.encoded if settings.orientations else None,
            incremental=update.incremental,
            seconds=time.monotonic() - started,
            changed=update.commit != latest,
            data_version=summary.digest,
            encoder=recorded_name(embeddings),
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
            left.images,
            right.images,
            with_itself=self._left == self._right,
        )


def decisions_about(
    store: Store, name: str, left: RowBlocks, right: RowBlocks, *, with_itself: bool
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
    ids = pl.concat([reviews["left_id"], reviews["right_id"]]).unique()
    is_reviewed = pl.col("id").is_in(ids.implode())
    images = (side.filter(is_reviewed, ["id", "sha256"]) for side in (left, right))
    return Decisions.of(reviews, *images, with_itself=with_itself)


def reviewed_name(table: str) -> str:
    """The name under which a match table is reviewed: without prefix and variant."""
    return table.removeprefix(MATCHES).partition(".")[0]
