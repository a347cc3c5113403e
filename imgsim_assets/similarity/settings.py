"""The settings of match tables, similarity graphs and duplicate groups."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from imgsim_assets.encoders.settings import RECOMMENDED, Threshold
from imgsim_assets.settings import Settings

# Prefix of the tables of groups across catalogs.
CROSS_CATALOG_GROUPS = "duplicate_groups"
Mode = Literal["all", "best", "top_k", "mutual", "one_to_one"]
Linkage = Literal["connected", "star"]
CanonicalRule = Literal["largest_resolution", "largest_file", "first_seen"]
CrossCatalogRule = Literal["catalog_order", "largest_resolution", "largest_file", "first_seen"]


class MatchSettings(Settings):
    """Which pairs of a left and a right catalog count as matches."""

    threshold: Threshold = Field(
        RECOMMENDED,
        description="minimum cosine, inclusive; recommended: the encoder's own; auto: "
        "measured by the catalogs' encoder_evaluation; null: none",
    )
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


class GraphSettings(Settings):
    """The similarity graph of one catalog."""

    k: int = Field(10, ge=1, le=1000, description="neighbors of each item")
    threshold: Threshold = Field(
        None,
        description="minimum cosine of an edge, inclusive; recommended: the encoder's own; auto: "
        "measured by encoder_evaluation; null: none",
    )


class LinkSettings(Settings):
    """How similar images are linked and divided into duplicate groups."""

    threshold: Threshold = Field(
        RECOMMENDED,
        description="minimum cosine of a link, inclusive; recommended: the encoder's own; auto: "
        "measured by encoder_evaluation; null: none",
    )
    linkage: Linkage = Field(
        "connected",
        description="connected: the connected components of the links, which can chain; star: "
        "every member reaches the threshold with the canonical item",
    )


class GroupSettings(LinkSettings):
    """The duplicate groups of one catalog."""

    canonical: CanonicalRule = Field(
        "largest_resolution",
        description="the canonical item of a group: the one with the most pixels, the largest "
        "file, or the earliest download; ties by id",
    )


class CrossCatalogGroupSettings(LinkSettings):
    """The duplicate groups of several catalogs together."""

    canonical: CrossCatalogRule = Field(
        "catalog_order",
        description="the canonical item of a group: one of the catalog that is listed first, "
        "and of those the one with the most pixels; or as for one catalog; ties by id",
    )
