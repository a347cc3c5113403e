"""Pairs of rows that have the evidence that counts: candidates of a join, compared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.similarity.approximate.search import RIGHT_CENTROIDS
from imgsim_assets.similarity.evidence.compare_pairs import (
    PAIR_SCHEMA,
    PairEvidence,
    evidence_for,
)
from imgsim_assets.similarity.evidence.known_pairs import (
    EVIDENCE,
    EVIDENCE_FINGERPRINT,
    known_evidence,
)
from imgsim_assets.similarity.evidence.pair import evidence_fingerprint
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.evidence.tiers import ALIGNED, SAME_BYTES, SIMILAR, TIERS
from imgsim_assets.similarity.item_pairs import in_order
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import MIN_COSINE, JoinSpec
from imgsim_assets.similarity.materialized import NEIGHBOR_LISTS, MaterializedResult, ResultUpdate
from imgsim_assets.similarity.neighbor_lists import (
    CachedNeighborLists,
    ListBlock,
    top_pairs,
)
from imgsim_assets.similarity.orientations import best_of_images
from imgsim_assets.similarity.reusable_lists import SCHEMA as ROW_SCHEMA
from imgsim_assets.similarity.threshold import ResolvedThreshold
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.store import Store

# Properties of a result: what the candidates are, and which of them count; null without evidence.
CANDIDATES = "candidates"
# The threshold where a similarity alone decides nothing.
BY_EVIDENCE = ResolvedThreshold(MIN_COSINE, "evidence: the minimum similarity of candidates")
COLUMNS = {name: PAIR_SCHEMA[name] for name in ("evidence", "inliers", "transform")}
CLOSE = "close"
_STRICT = "strict"
_RIGHT_LISTS = "right_neighbor_lists"


@dataclass(frozen=True)
class EvidenceRule:
    """Which pairs are compared, and which of them count.

    Attributes:
        settings: as declared.
        threshold: the minimum cosine of a pair that counts as similar.
        strict: whether aligned images that are no close copies are only similar.
    """

    settings: EvidenceSettings
    threshold: float
    strict: bool = False

    @classmethod
    def of(
        cls, settings: EvidenceSettings, threshold: float, *, strict: bool = False
    ) -> EvidenceRule | None:
        """The rule of some settings; None if no evidence is computed.

        Args:
            settings: as declared.
            threshold: the minimum cosine of a pair that counts as similar.
            strict: whether only close copies count as aligned, where the settings do not say.

        Raises:
            SettingsError: OpenCV is not installed.
        """
        if not settings.compute:
            return None
        evidence_fingerprint()
        return cls(settings, threshold, strict if settings.strict is None else settings.strict)

    @property
    def similar_from(self) -> float | None:
        """The minimum cosine of a pair that need only be similar; None where it does not count."""
        return self.threshold if self.settings.require == SIMILAR else None

    @property
    def min_similarity(self) -> float:
        """The minimum cosine of a candidate."""
        declared = self.settings.min_similarity
        return min(declared, self.threshold) if self.settings.require == SIMILAR else declared

    def candidates(self, *, exclude_self: bool = False) -> JoinSpec:
        """The join that finds the candidates of each row."""
        return JoinSpec(self.min_similarity, self.settings.max_candidates, exclude_self)

    @property
    def counts(self) -> pl.Expr:
        """Whether a row with `evidence`, `close` and `similarity` counts."""
        strength = TIERS.index(self.settings.require) + 1
        counts = pl.col("evidence").is_in(TIERS[:strength])
        is_similar = pl.col("evidence") == SIMILAR
        if self.strict:
            is_similar |= (pl.col("evidence") == ALIGNED) & ~pl.col(CLOSE)
        if self.settings.require != SIMILAR:
            return counts & ~is_similar
        return ~is_similar | (pl.col("similarity") >= self.threshold)

    @property
    def candidates_recipe(self) -> list[float]:
        """What the candidates depend on."""
        return [self.min_similarity, self.settings.max_candidates]

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides which candidates count."""
        require = self.settings.require
        from_similarity = self.threshold if require == SIMILAR else None
        return {
            "require": require,
            SIMILAR: from_similarity,
            _STRICT: self.strict,
            EVIDENCE_FINGERPRINT: evidence_fingerprint(),
        }


@dataclass(frozen=True)
class EvidenceCounts:
    """The rows of a result by tier, and the pairs and images that a run compared and described."""

    tiers: Mapping[str, int]
    compared: int
    images: int
    # The minimum cosine of pairs that need only be similar; None where they do not count.
    similar_from: float | None = None

    @classmethod
    def of(
        cls, rows: pl.DataFrame, computed: PairEvidence | None, rule: EvidenceRule | None
    ) -> EvidenceCounts | None:
        """The counts of rows; None if they have no evidence. Nothing is computed for old rows."""
        if "evidence" not in rows.columns:
            return None
        counts = dict(rows["evidence"].value_counts().iter_rows())
        tiers: dict[str, int] = {tier: counts.get(tier, 0) for tier in TIERS}
        compared, images = (computed.compared, computed.images) if computed else (0, 0)
        return cls(tiers, compared, images, rule.similar_from if rule is not None else None)

    @classmethod
    def of_update(
        cls, update: ResultUpdate, computed: Sequence[PairEvidence], rule: EvidenceRule | None
    ) -> EvidenceCounts | None:
        """`of` the rows of a result; `computed` is empty where nothing was. Reads none without."""
        if rule is None:
            return None
        return cls.of(update.rows, computed[0] if computed else None, rule)


class EvidentPairs(NamedTuple):
    """The candidates that count: pairs of rows, as of `neighbor_lists.SCHEMA`, in order.

    Attributes:
        rows: the pairs.
        evidence: for all candidates.
        files: what the next run needs: the neighbor lists, and the evidence.
        incremental: whether cached lists were used.
    """

    rows: pl.DataFrame
    evidence: PairEvidence
    files: list[DataFile]
    incremental: bool


def needs_threshold(settings: EvidenceSettings) -> bool:
    """Whether a similarity alone may decide."""
    return not settings.compute or settings.require == SIMILAR


def evident_pairs(
    store: Store,
    result: MaterializedResult,
    left: Items,
    right: Items,
    rule: EvidenceRule,
    cached: CachedNeighborLists | None,
    *,
    of_both: bool = False,
    exclude_self: bool = False,
) -> EvidentPairs:
    """Find the candidates of rows, and compare those that an earlier result did not compare.

    Args:
        store: where the images are.
        result: the result table, whose latest commit has earlier evidence.
        left: the left rows.
        right: the right rows.
        rule: what candidates are, and which of them count.
        cached: earlier lists of the left rows.
        of_both: also take the candidates of the right rows.
        exclude_self: an item is no candidate of itself.

    Raises:
        StoreError: the bytes of an image are missing or damaged.
    """
    spec = rule.candidates(exclude_self=exclude_self)
    lists = updated_lists(
        result,
        left,
        right,
        spec,
        partial(_candidates, left, spec),
        role=NEIGHBOR_LISTS,
        cached=cached,
    )
    candidates, files = pl.concat(lists.results), lists.files
    if of_both:
        cached_right = result.cached_lists(_RIGHT_LISTS)
        of_right = updated_lists(
            result,
            right,
            left,
            spec,
            partial(_candidates, right, spec),
            role=_RIGHT_LISTS,
            centroids=RIGHT_CENTROIDS,
            cached=cached_right.swapped() if cached_right is not None else None,
        )
        files += of_right.files
        swapped = pl.concat(of_right.results).rename({"left_id": "right_id", "right_id": "left_id"})
        both = pl.concat([candidates, swapped.select(candidates.columns)])
        candidates = in_order(both.unique(["left_id", "right_id"], keep="first"))
    rows = candidates
    for side, items in (("left", left), ("right", right)):
        images = items.images_of(rows[f"{side}_id"]).select(
            pl.col("row_id").alias(f"{side}_id"), pl.col("sha256").alias(f"{side}_sha256")
        )
        rows = rows.join(images, on=f"{side}_id", how="left", maintain_order="left")
    found = evidence_for(store, rows, known_evidence(store, result.table, result.latest))
    files.append(result.table.write_rows(found.pairs, role=EVIDENCE))
    accepted = _described(rows, found.pairs).filter(rule.counts)
    return EvidentPairs(accepted.select(candidates.columns), found, files, lists.incremental)


def _candidates(left: Items, spec: JoinSpec, lists: ListBlock) -> pl.DataFrame:
    """The pairs of rows that are compared: the best right images of each left image of a block."""
    if not left.is_turned and not lists.right.is_turned:
        return top_pairs(lists.lists, spec)
    part = left.slice(lists.block.start, lists.block.stop)
    return best_of_images(lists.lists.select(list(ROW_SCHEMA)), part, lists.right, spec.k)


def with_evidence(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows with left_sha256 and right_sha256, and the evidence for them."""
    return _described(rows, pairs).drop(CLOSE)


def _described(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The same, and whether the images are close copies."""
    ends = pl.col("left_sha256"), pl.col("right_sha256")
    ordered = [pl.min_horizontal(ends), pl.max_horizontal(ends)]
    described = rows.join(
        pairs,
        left_on=ordered,
        right_on=["left_sha256", "right_sha256"],
        how="left",
        maintain_order="left",
    ).select(*rows.columns, *COLUMNS, CLOSE)
    is_same = ends[0] == ends[1]
    return described.with_columns(
        pl.when(is_same).then(pl.lit(SAME_BYTES)).otherwise("evidence").alias("evidence"),
        pl.col(CLOSE) | is_same,
    )
