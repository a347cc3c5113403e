"""The settings of match tables, similarity graphs and duplicate groups."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from imgsim_assets.encoders.settings import (
    AUTO,
    FALSE_MATCHES,
    RECOMMENDED,
    FalseMatches,
    Threshold,
)
from imgsim_assets.settings import Names, Settings
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.evidence.tiers import SIMILAR

# Sources of a threshold for which nothing was measured.
DECLARED, NO_THRESHOLD = "declared", "no lower bound"
# Prefix of the tables of groups across catalogs.
CROSS_CATALOG_GROUPS = "duplicate_groups"
REVIEWS_FILE = (
    "file of people's decisions (.csv, .tsv, .parquet; from the project's root) with the columns "
    "left_id, right_id and verdict: match, different, unsure or cleared"
)
EXACT, APPROXIMATE = "exact", "approximate"
# Keys of settings, and properties of results.
METHOD, MIN_RECALL = "method", "min_recall"
Method = Literal["exact", "approximate"]
Compare = Literal["any", "first", "mean_best"]
Mode = Literal["all", "best", "top_k", "mutual", "one_to_one"]
Linkage = Literal["connected", "star"]
CanonicalRule = Literal["largest_resolution", "largest_file", "first_seen"]
CrossCatalogRule = Literal["catalog_order", "largest_resolution", "largest_file", "first_seen"]
R = TypeVar("R", bound=str)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _named_once(rules: tuple[R, ...]) -> tuple[R, ...]:
    if not rules:
        raise ValueError("the list is empty; name a rule")
    for rule in rules:
        if rules.count(rule) > 1:
            raise ValueError(f"{rule!r} is listed twice; list it once")
    return rules


class ComparisonSettings(Settings):
    """Which images of items are compared, and how items with several images are."""

    compare: Compare = Field(
        "any",
        description="items with several images by their best pair of images (any); by the first "
        "usable image of each (first); or by the mean, over the images of the left item, of the "
        "similarity to the best image of the right one (mean_best, which needs a threshold)",
    )
    max_shared: int | None = Field(
        20,
        ge=1,
        description="leave out images that more items of a catalog have than this, such as "
        "placeholders and logos; null leaves out none",
    )
    orientations: bool = Field(
        False,
        description="compare the left image of each pair in eight orientations, rotated by quarter "
        "turns and mirrored, of which the best counts; each is encoded once",
    )
    evidence: EvidenceSettings = EvidenceSettings()

    @model_validator(mode="after")
    def _mean_best_needs_a_threshold(self) -> Self:
        if self.compare == "mean_best" and getattr(self, "threshold", None) is None:
            raise ValueError(
                "compare: mean_best needs a threshold, such as 'threshold: recommended', since it "
                "scores every pair of items whose best images reach it"
            )
        return self

    @model_validator(mode="after")
    def _mean_best_has_no_evidence(self) -> Self:
        if self.compare == "mean_best" and self.evidence.compute:
            raise ValueError(
                "compare: mean_best has no single pair of images to look for evidence in; remove "
                "'evidence:', or set 'compare: any'"
            )
        return self

    @model_validator(mode="after")
    def _what_is_given_decides(self) -> Self:
        threshold, given = getattr(self, "threshold", None), self.model_fields_set
        require = self.evidence.require
        if self.evidence.compute and require != SIMILAR:
            for key in ("threshold", "false_matches"):
                # A threshold of None is no lower bound.
                if key in given and getattr(self, key) is not None:
                    raise ValueError(
                        f"{key}: with 'require: {require}' only the evidence decides; remove it, "
                        f"or set 'require: {SIMILAR}'"
                    )
        elif "false_matches" in given and not isinstance(threshold, str):
            raise ValueError(
                "false_matches: only a measured threshold has it; remove it, or set "
                f"'threshold: {AUTO}'"
            )
        return self


class IgnoreSettings(Settings):
    """A list of images that are not compared."""

    list: str = Field(
        description="file with an image in the first field of each line: its sha256, or the path "
        "of an image file from the project's root"
    )
    min_similarity: float | None = Field(
        0.98,
        ge=-1,
        le=1,
        description="leave out images with this cosine to a listed one, too; null: only the same "
        "bytes",
    )


class PairSettings(ComparisonSettings):
    """Which items are compared with which."""

    method: Method = Field(
        "exact",
        description="exact: every pair of images is compared; approximate: of large catalogs only "
        "pairs that are in near lists, which may miss a few",
    )
    min_recall: float = Field(
        0.98,
        ge=0.5,
        lt=1,
        description="of method approximate: the fraction of the exact pairs that is found, at "
        "least, as measured on a sample of the left images; a check tells when it is not",
    )

    ignore: IgnoreSettings | None = Field(
        None,
        description="leave out the images of a list, such as {list: data/ignore.csv}, and what is "
        "as near to them",
    )

    within: Names = Field(
        (),
        description="compare only items that agree in these columns of their items tables, such as "
        "[brand]; an empty value agrees with nothing",
    )

    @model_validator(mode="after")
    def _min_recall_goes_with_approximate(self) -> Self:
        if self.method != APPROXIMATE and "min_recall" in self.model_fields_set:
            raise ValueError(
                f"min_recall: method {self.method} misses nothing; remove it, or set "
                f"'method: {APPROXIMATE}'"
            )
        return self


class MatchSettings(PairSettings):
    """Which pairs of a left and a right catalog count as matches."""

    threshold: Threshold = Field(
        RECOMMENDED,
        description="minimum cosine, inclusive; recommended: the one measured for the encoder, "
        "else auto; auto: measured on the catalogs; null: none",
    )
    false_matches: FalseMatches = FALSE_MATCHES
    mode: Mode = Field(
        "best",
        description="all pairs; the best right item of each left one; its k best; pairs that are "
        "the best for each other; or one_to_one, of no item more than one pair, with the "
        "greatest total similarity",
    )
    k: int | None = Field(None, ge=1, le=1000, description="for mode top_k")

    @model_validator(mode="after")
    def _k_goes_with_top_k(self) -> MatchSettings:
        if self.mode == "top_k" and self.k is None:
            raise ValueError("k: mode top_k needs it, such as 'k: 5'")
        if self.mode != "top_k" and self.k is not None:
            raise ValueError(f"k: mode {self.mode} has none; remove it, or set 'mode: top_k'")
        return self


class GraphSettings(PairSettings):
    """The similarity graph of one catalog."""

    k: int = Field(10, ge=1, le=1000, description="neighbors of each item")
    threshold: Threshold = Field(
        None,
        description="minimum cosine of an edge, inclusive; recommended: the one measured for the "
        "encoder, else auto; auto: measured on the catalog; null: none",
    )
    false_matches: FalseMatches = FALSE_MATCHES


class LinkSettings(PairSettings):
    """How similar images are linked and divided into duplicate groups."""

    threshold: Threshold = Field(
        AUTO,
        description="minimum cosine of a link, inclusive; auto: measured on the catalogs; "
        "recommended: the one measured for the encoder, else auto; null: none",
    )
    false_matches: FalseMatches = FALSE_MATCHES
    linkage: Linkage = Field(
        "connected",
        description="connected: the connected components of the links, which can chain; star: "
        "every member reaches the threshold with the canonical item",
    )
    keep: Names = Field(
        (),
        description="folders, as the urls or paths of their images begin, or catalogs: their items "
        "are canonical before all others and are always kept",
    )


class GroupSettings(LinkSettings):
    """The duplicate groups of one catalog."""

    canonical: Annotated[
        tuple[CanonicalRule, ...],
        BeforeValidator(_listed, json_schema_input_type=CanonicalRule | list[CanonicalRule]),
        AfterValidator(_named_once),
    ] = Field(
        ("largest_resolution", "largest_file", "first_seen"),
        description="what makes an item the canonical one of its group: the most pixels, the "
        "largest file, the earliest download; among equals the next rule decides, then the id",
    )
    reviews: str | None = Field(None, min_length=1, description=REVIEWS_FILE)


class CrossCatalogGroupSettings(LinkSettings):
    """The duplicate groups of several catalogs together."""

    canonical: Annotated[
        tuple[CrossCatalogRule, ...],
        BeforeValidator(_listed, json_schema_input_type=CrossCatalogRule | list[CrossCatalogRule]),
        AfterValidator(_named_once),
    ] = Field(
        ("catalog_order", "largest_resolution", "largest_file", "first_seen"),
        description="as for one catalog; catalog_order: an item of the catalog that is listed "
        "first",
    )
