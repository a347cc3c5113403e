"""Pairs of different items of a catalog that are known to show the same: no false matches.

People have judged images to be a match, or local features align. Both are known of images, so the
pairs are those of the items that have them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from imgsim_assets.reviews.table import MATCH, REVIEWS, empty_reviews, read_reviews
from imgsim_assets.similarity.evidence.compare_pairs import PAIR_SCHEMA, evidence_for
from imgsim_assets.similarity.evidence.pair import evidence_fingerprint
from imgsim_assets.similarity.evidence.tiers import SIMILAR
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store

_IMAGES = ["left_sha256", "right_sha256"]
_IDS = ["left_id", "right_id"]


def judged_matches(store: Store, keys: RowBlocks) -> pl.DataFrame:
    """The pairs of items (left_id, right_id) of which people judged two images to be a match.

    The latest decision about two images counts, whichever table it is in.

    Args:
        store: holds the decisions.
        keys: the images (id, sha256) of a catalog.
    """
    tables = [store.table(name) for name in store.table_folders(REVIEWS)]
    reviews = [read_reviews(table, table.latest()) for table in tables]
    decisions = pl.concat([empty_reviews(), *reviews])
    decided = pl.concat([decisions[name] for name in _IMAGES]).unique()
    is_decided = pl.col("sha256").is_in(decided.implode())
    of_decided = keys.filter(is_decided, ["id", "sha256"])
    left, right = (pl.col(name) for name in _IMAGES)
    latest = (
        decisions.filter(pl.all_horizontal(pl.col(_IMAGES).is_in(of_decided["sha256"].implode())))
        .sort("decided_at", "verdict", maintain_order=True)
        .select(
            pl.min_horizontal(left, right).alias(_IMAGES[0]),
            pl.max_horizontal(left, right).alias(_IMAGES[1]),
            "verdict",
        )
        .unique(_IMAGES, keep="last", maintain_order=True)
    )
    pairs = latest.filter(pl.col("verdict") == MATCH)
    for image, name in zip(_IMAGES, _IDS, strict=True):
        items = of_decided.select(pl.col("id").alias(name), pl.col("sha256").alias(image))
        pairs = pairs.join(items, on=image)
    return pairs.filter(pl.col("left_id") != pl.col("right_id")).select(_IDS).unique().sort(_IDS)


@dataclass
class AlignedImages:
    """Says which pairs of images align, and remembers what it has compared.

    Attributes:
        store: where the images are.
        known: evidence that earlier runs have computed, by the present fingerprint.
        compared: the evidence for all pairs that were asked for.
    """

    store: Store
    known: pl.DataFrame | None = None
    compared: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PAIR_SCHEMA))

    def __call__(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Those of some pairs of images (left_sha256, right_sha256) that are more than similar.

        Returns:
            The pairs with the smaller sha256 on the left.
        """
        found = evidence_for(self.store, pairs, self.known).pairs
        self.compared = pl.concat([self.compared, found]).unique(_IMAGES).sort(_IMAGES)
        return found.filter(pl.col("evidence") != SIMILAR).select(_IMAGES)


def same_recipe(judged: pl.DataFrame, *, evidence: bool) -> str:
    """What decides which pairs are known to show the same, besides the images."""
    compared_by = evidence_fingerprint() if evidence else ""
    return rows_digest(judged, compared_by) if judged.height else compared_by
