"""What a match table and a similarity graph are to hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from imgsim_assets.encoders.settings import RECOMMENDED, Threshold
from imgsim_assets.settings import Settings

# Where the groups across catalogs live.
ACROSS = "duplicate_groups"
Mode = Literal["all", "best", "top_k", "mutual", "one_to_one"]
Representative = Literal["pixels", "bytes", "oldest"]
AcrossRule = Literal["catalog", "pixels", "bytes", "oldest"]


class MatchSettings(Settings):
    """Which pairs of a left and a right catalog count as matches."""

    threshold: Threshold = Field(
        RECOMMENDED,
        description="least cosine, inclusive; recommended: the encoder's own; auto: measured by "
        "the catalogs' encoder_evaluation; null: none",
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
        description="least cosine of an edge, inclusive; recommended: the encoder's own; auto: "
        "measured by encoder_evaluation; null: none",
    )


class LinkSettings(Settings):
    """What holds duplicate groups together."""

    threshold: Threshold = Field(
        RECOMMENDED,
        description="least cosine of a link, inclusive; recommended: the encoder's own; auto: "
        "measured by encoder_evaluation; null: none",
    )
    close_to_representative: bool = Field(
        default=False,
        description="whether every member must reach the threshold with the representative, so "
        "that groups cannot chain",
    )


class GroupSettings(LinkSettings):
    """The duplicate groups of one catalog."""

    representative: Representative = Field(
        "pixels",
        description="which item stands for its group: the one with the most pixels, the largest "
        "file, or the one fetched first; ties by id",
    )


class AcrossSettings(LinkSettings):
    """The duplicate groups of several catalogs together."""

    representative: AcrossRule = Field(
        "catalog",
        description="which item stands for its group: one of the catalog that is listed first, "
        "and of those the one with the most pixels; or as for one catalog; ties by id",
    )
