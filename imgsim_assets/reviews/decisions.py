"""Decisions that hold for the images that items have now."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from imgsim_assets.reviews.table import DIFFERENT, MATCH, PAIR, latest_decisions, swapped
from imgsim_assets.storage.digest import rows_digest

# In the verdicts of a result: the pair was judged, and one of its items has lost its image since.
REOPENED = "reopened"
# Increment when results store something else about the same decisions.
_FORMAT = "2"


@dataclass(frozen=True)
class Decisions:
    """The decisions about the pairs of two lists of items, at most one for each pair.

    `standing` and `reopened` have the columns of the reviews. A decision stands while both items
    have the images that were judged; it is reopened once one of them has lost its image.

    Of a list that is compared with itself, (a, b) and (b, a) are one pair, and both are here;
    `once` leaves one of them.
    """

    standing: pl.DataFrame
    reopened: pl.DataFrame
    with_itself: bool = False

    @classmethod
    def of(
        cls,
        reviews: pl.DataFrame,
        left: pl.DataFrame,
        right: pl.DataFrame,
        *,
        with_itself: bool = False,
    ) -> Decisions:
        """The decisions of some reviews about the images of the items.

        Args:
            reviews: decisions in any order.
            left: id and sha256 of the images of the left items, one row for each image.
            right: the same of the right items.
            with_itself: whether both are one list, so that a pair has no direction.
        """
        if with_itself:
            reviews = pl.concat([reviews, swapped(reviews)])
        latest = latest_decisions(reviews)
        existing = latest.join(left, left_on="left_id", right_on="id", how="semi").join(
            right, left_on="right_id", right_on="id", how="semi"
        )
        standing = existing.join(
            left, left_on=["left_id", "left_sha256"], right_on=["id", "sha256"], how="semi"
        ).join(right, left_on=["right_id", "right_sha256"], right_on=["id", "sha256"], how="semi")
        return cls(standing, existing.join(standing, on=PAIR, how="anti"), with_itself)

    def once(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of decisions, each pair once."""
        return rows.filter(pl.col("left_id") < pl.col("right_id")) if self.with_itself else rows

    @property
    def counts(self) -> dict[str, int]:
        """How many decisions stand, by verdict."""
        return dict(sorted(self.once(self.standing)["verdict"].value_counts().iter_rows()))

    @property
    def digest(self) -> str | None:
        """A digest of the verdicts, None without any."""
        return rows_digest(self.verdicts, _FORMAT) if self.verdicts.height else None

    @property
    def verdicts(self) -> pl.DataFrame:
        """left_id, right_id and verdict, which is `reopened` of a decision that was reopened."""
        reopened = self.reopened.with_columns(pl.lit(REOPENED).alias("verdict"))
        return pl.concat([self.standing, reopened]).select(*PAIR, "verdict").sort(PAIR)

    def pairs(self, verdict: str) -> pl.DataFrame:
        """The pairs (left_id, right_id) with a standing verdict."""
        return self.standing.filter(pl.col("verdict") == verdict).select(PAIR)

    @property
    def matches(self) -> pl.DataFrame:
        """The pairs that were judged to be a match."""
        return self.pairs(MATCH)

    @property
    def different(self) -> pl.DataFrame:
        """The pairs that were judged to be different."""
        return self.pairs(DIFFERENT)
