"""What the review API answers: pairs, candidates, scores and matched features."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.service.review_tabs import Tab

Cell = str | int | float | bool | list[str] | None


class ItemImage(BaseModel):
    """An image of an item."""

    image: int = Field(description="its number within the item, from 0")
    sha256: str


class Pair(BaseModel):
    """Two items, their images and columns, and what people decided about them."""

    left_id: str
    right_id: str | None = Field(description="null for a left item whose neighbors are not known")
    similarity: float | None
    rank: int | None = Field(description="null for a pair that is no match")
    left_image: int | None
    right_image: int | None
    left_sha256: str | None
    right_sha256: str | None
    evidence: str | None
    inliers: int | None
    transform: str | None
    verdict: str | None = Field(description="the decision that stands, made just now included")
    reviewer: str | None
    note: str | None
    decided_at: datetime | None
    reopened: str | None = Field(description="a verdict about images that have changed since")
    left: dict[str, Cell] = Field(description="columns of the left item, long text cut")
    right: dict[str, Cell]
    left_images: list[ItemImage]
    right_images: list[ItemImage]


class MeasuredPrecision(BaseModel):
    """The fraction of matches that are true, from the pairs that were judged in random order."""

    model_config = ConfigDict(from_attributes=True)

    value: float | None = Field(description="null if nobody could tell")
    low: float = Field(description="of the 95 % interval")
    high: float
    sampled: int = Field(description="pairs that were judged, from the beginning of the order")
    population: int


class Pairs(BaseModel):
    """Some pairs of a tab."""

    version: int = Field(description="of the match table")
    total: int = Field(description="pairs of the tab")
    judged: int = Field(description="of them, those with a decision that stands")
    first_open: int | None = Field(description="position of the first pair without a decision")
    position: int = Field(description="of the first of these pairs, from 0")
    pairs: list[Pair]
    next: int | None = Field(description="position of the next pairs; null at the end")
    precision: MeasuredPrecision | None = Field(
        description="of tab random; null before ten pairs are judged"
    )


class Candidates(BaseModel):
    """A left item's candidates, the most similar first."""

    version: int
    pairs: list[Pair]


class TabCount(BaseModel):
    """A tab and the number of its pairs."""

    tab: Tab
    count: int | None = Field(description="null where it takes a comparison of all items")


class ReviewSummary(BaseModel):
    """A match table as its review page shows it."""

    name: str
    left: str = Field(description="name of the left catalog")
    right: str = Field(description="name of the right catalog")
    mode: str
    version: int
    newest_version: int
    committed_at: datetime
    threshold: float
    matches: int
    left_items: int
    right_items: int
    has_evidence: bool
    verdicts: dict[str, int] = Field(description="decisions that stand, by verdict")
    reopened: int = Field(description="decisions about images that have changed since")
    reviewer: str | None = Field(description="the person, as a proxy names them")
    asset_url: str | None = Field(description="the match table in Dagster")
    run_url: str | None = Field(description="the run of this version in Dagster")
    tabs: list[TabCount]


class FalseMatchRate(BaseModel):
    """The fraction of the left items that get a false best match at a threshold."""

    threshold: float
    rate: float


class Scores(BaseModel):
    """The best similarity of every left item, to choose a threshold by."""

    version: int
    threshold: float
    items: int = Field(description="left items that are compared")
    sampled: int = Field(description="of them, those whose best similarity is counted")
    first: float = Field(description="lower edge of the first bin")
    width: float = Field(description="of a bin; a bin has its lower edge and lacks its upper one")
    counts: list[int] = Field(description="items by bin; the last one has the similarity 1, too")
    false_match_rates: list[FalseMatchRate] = Field(
        description="by rising threshold; each holds up to the next one"
    )
    measured_by: str = Field(description="what measured the rates")


class MatchedFeatures(BaseModel):
    """The local features that match in two images, in fractions of width and height."""

    evidence: str
    inliers: int | None
    transform: str | None
    left: list[tuple[float, float]]
    right: list[tuple[float, float]]
    matrix: list[tuple[float, float, float]] | None = Field(
        description="2 x 3, from the left image to the right one; null if they do not align"
    )


class NewDecision(BaseModel):
    """A decision of a person about a pair."""

    model_config = ConfigDict(extra="forbid")

    left_id: str
    right_id: str
    left_sha256: str
    right_sha256: str
    verdict: str = Field(description="match, different, unsure, or cleared to take one back")
    note: str | None = None


class NewDecisions(BaseModel):
    """Decisions of one person."""

    model_config = ConfigDict(extra="forbid")

    reviewer: str | None = Field(
        None, description="who decides; not used where a proxy names the person"
    )
    decisions: list[NewDecision] = Field(min_length=1, max_length=1000)

    def rows(self) -> list[dict[str, Any]]:
        """The decisions as rows."""
        return [decision.model_dump() for decision in self.decisions]


class Recorded(BaseModel):
    """What was recorded."""

    added: int = Field(description="decisions that were new")
    reviewer: str
    verdicts: dict[str, int] = Field(description="decisions that stand afterwards, by verdict")
