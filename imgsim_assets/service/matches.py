"""Match tables: which items of two catalogs show the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from imgsim_assets.errors import SettingsError
from imgsim_assets.service.errors import PROBLEMS
from imgsim_assets.service.paging import Page, PageQuery, read_table_page
from imgsim_assets.service.view import CurrentView

router = APIRouter(prefix="/api", tags=["matches"], responses=PROBLEMS)

_NO_VERDICT = "none"
_ORDERS = {"similarity": False, "-similarity": True}


class MatchRow(BaseModel):
    """A pair of items. Columns of evidence are there where the table has them."""

    model_config = ConfigDict(extra="allow")

    left_id: str
    right_id: str
    similarity: float | None = Field(description="cosine of the nearest images")
    rank: int = Field(description="of the match among those of its left item, from 1")
    left_image: int
    right_image: int
    left_sha256: str
    right_sha256: str
    verdict: str | None = Field(None, description="what a person decided about the pair")


class MatchFilter(PageQuery):
    """Which matches are returned."""

    left_id: list[str] = Field([], description="only matches of these left items")
    right_id: list[str] = Field([], description="only matches of these right items")
    min_similarity: float | None = Field(None, description="smallest similarity, inclusive")
    max_similarity: float | None = Field(None, description="largest similarity, inclusive")
    verdict: list[Literal["match", "different", "unsure", "none"]] = Field(
        [], description="only these verdicts; none for pairs that nobody judged"
    )
    evidence: list[Literal["same_bytes", "same_pixels", "aligned", "similar"]] = Field(
        [], description="only this evidence, of a table that has it"
    )
    order: Literal["id", "similarity", "-similarity"] = Field(
        "id", description="-similarity for the most similar pairs first"
    )


@router.get("/matches/{name}")
def get_matches(
    view: CurrentView,
    name: Annotated[str, Path(description="name of the match table")],
    query: Annotated[MatchFilter, Query()],
) -> Page[MatchRow]:
    """Get the rows of a match table."""
    return Page[MatchRow](**read_table_page(view, f"matches/{name}", query, _select))


def _select(rows: pl.DataFrame, query: MatchFilter) -> pl.DataFrame:
    for name, chosen in (("verdict", query.verdict), ("evidence", query.evidence)):
        if chosen and name not in rows.columns:
            raise SettingsError(f"{name}: the table has no column {name}")
    found = rows.filter(*_conditions(query))
    if query.order != "id":
        by = ["similarity", "left_id", "right_id"]
        found = found.sort(by, descending=[_ORDERS[query.order], False, False])
    return found


def _conditions(query: MatchFilter) -> Iterator[Any]:
    yield pl.lit(value=True)
    if query.left_id:
        yield pl.col("left_id").is_in(query.left_id)
    if query.right_id:
        yield pl.col("right_id").is_in(query.right_id)
    if query.min_similarity is not None:
        yield pl.col("similarity") >= query.min_similarity
    if query.max_similarity is not None:
        yield pl.col("similarity") <= query.max_similarity
    if query.verdict:
        yield pl.col("verdict").fill_null(_NO_VERDICT).is_in(query.verdict)
    if query.evidence:
        yield pl.col("evidence").is_in(query.evidence)
