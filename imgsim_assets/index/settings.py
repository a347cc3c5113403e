"""The settings of a catalog's index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from imgsim_assets.settings import Settings


class IndexSettings(Settings):
    """The persisted FAISS index of one catalog."""

    kind: Literal["flat", "ivf"] = Field(
        "flat", description="flat (exact), or ivf (approximate, faster for large catalogs)"
    )
    min_items: int = Field(
        10_000,
        ge=1,
        description="of kind ivf: catalogs with fewer items stay flat, "
        "and an ivf index becomes flat again below three quarters of it",
    )
    nprobe: int = Field(32, ge=1, le=4096, description="of kind ivf: lists that a search scans")
    min_recall: float = Field(
        0.95, ge=0, le=1, description="of kind ivf: minimum recall@10 on a sample, by a check"
    )
