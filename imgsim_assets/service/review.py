"""The review API: pairs of a match table, and the decisions of people about them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import polars as pl
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse

from imgsim_assets.errors import CorruptFileError, DecisionError
from imgsim_assets.evaluation.false_match_rates import false_match_rates
from imgsim_assets.images.errors import ImageError
from imgsim_assets.pages.templates import render
from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import precision_of
from imgsim_assets.reviews.table import PAIR
from imgsim_assets.service.dagster_links import origin_of
from imgsim_assets.service.errors import NotFoundError
from imgsim_assets.service.paging import MAX_OFFSET
from imgsim_assets.service.review_models import (
    Candidates,
    FalseMatchRate,
    MatchedFeatures,
    MeasuredPrecision,
    NewDecisions,
    Pairs,
    Recorded,
    ReviewSummary,
    Scores,
    TabCount,
)
from imgsim_assets.service.review_rows import describe_pairs
from imgsim_assets.service.review_table import SIDES, ReviewTable, ReviewTables
from imgsim_assets.service.review_tabs import Tab, candidates, tab_count, tab_pairs
from imgsim_assets.service.security import reviewer_of
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.service.view import CurrentView
from imgsim_assets.similarity.evidence.matched_points import matched_points
from imgsim_assets.similarity.matches import reviewed_name
from imgsim_assets.storage.store import Store

router = APIRouter(tags=["review"])

_MAX_PAIRS = 200
_BIN_WIDTH = 0.001
_DIGITS = 3
_MAX_CANDIDATES = 48

Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="the match table")]
Version = Annotated[
    int | None, Query(ge=1, description="version of the match table; default: the newest")
]
Sha256 = Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]


def _table(request: Request, view: CurrentView, name: Name, version: Version = None) -> ReviewTable:
    tables: ReviewTables = request.app.state.review_tables
    return tables.get(view, name, version)


Reviewed = Annotated[ReviewTable, Depends(_table)]


@router.get("/review/{name}", response_class=HTMLResponse, include_in_schema=False)
def get_page(request: Request, view: CurrentView, name: Name) -> HTMLResponse:
    """The review page of a match table."""
    properties = view.commit(f"matches/{name}").properties
    catalogs = dict.fromkeys(properties[side] for side in SIDES if side in properties)
    return HTMLResponse(
        render(
            "review.html",
            title=name,
            name=name,
            catalogs=list(catalogs),
            root=request.scope.get("root_path", ""),
        )
    )


@router.get("/api/review/{name}")
def get_summary(request: Request, view: CurrentView, table: Reviewed) -> ReviewSummary:
    """The match table, its tabs, and how much of it is judged."""
    decisions = table.decisions()
    properties = table.commit.properties
    settings: ServeSettings = request.app.state.settings
    origin = origin_of(table.commit, settings.dagster_url)
    return ReviewSummary(
        name=table.name,
        left=table.left.catalog,
        right=table.right.catalog,
        mode=properties["mode"],
        version=table.commit.version,
        newest_version=view.commit(f"matches/{table.name}").version,
        committed_at=datetime.fromisoformat(table.commit.committed_at),
        threshold=table.threshold,
        matches=table.rows.height,
        left_items=table.left.count,
        right_items=table.right.count,
        has_evidence="evidence" in table.rows.columns,
        verdicts=decisions.counts,
        reopened=decisions.once(decisions.reopened).height,
        reviewer=reviewer_of(request.headers, settings),
        asset_url=origin.asset_url,
        run_url=origin.run_url,
        tabs=[TabCount(tab=tab, count=tab_count(table, tab, decisions)) for tab in Tab],
    )


@router.get("/api/review/{name}/pairs")
def get_pairs(
    view: CurrentView,
    table: Reviewed,
    tab: Tab = Tab.NEW,
    position: Annotated[
        int, Query(ge=0, le=MAX_OFFSET, description="of the first pair, from 0")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAIRS)] = 50,
) -> Pairs:
    """The pairs of a tab. Pass `version` after the first request, so that the order stays."""
    decisions = table.decisions()
    pairs = tab_pairs(table, tab, decisions)
    numbered = pairs.select(*PAIR).with_row_index("position")
    is_open = numbered.join(decisions.standing, on=list(PAIR), how="anti")["position"]
    end = position + limit
    return Pairs(
        version=table.commit.version,
        total=pairs.height,
        judged=pairs.height - len(is_open),
        first_open=is_open.min(),
        position=position,
        pairs=describe_pairs(view, table, pairs.slice(position, limit), decisions),
        next=end if end < pairs.height else None,
        precision=_precision(pairs, decisions) if tab is Tab.RANDOM else None,
    )


def _precision(pairs: pl.DataFrame, decisions: Decisions) -> MeasuredPrecision | None:
    measured = precision_of(pairs, decisions)
    return MeasuredPrecision.model_validate(measured) if measured is not None else None


@router.get("/api/review/{name}/candidates")
def get_candidates(
    view: CurrentView,
    table: Reviewed,
    left_id: str,
    limit: Annotated[int, Query(ge=1, le=_MAX_CANDIDATES, description="nearest items")] = 12,
) -> Candidates:
    """A left item's matches, decided pairs and nearest items, also those below the threshold."""
    decisions = table.decisions()
    pairs = candidates(table, left_id, decisions, limit)
    if not pairs.height:
        raise NotFoundError(f"{table.left.catalog} has no item {left_id!r} that is compared")
    return Candidates(
        version=table.commit.version, pairs=describe_pairs(view, table, pairs, decisions)
    )


@router.get("/api/review/{name}/scores")
def get_scores(view: CurrentView, table: Reviewed) -> Scores:
    """The best similarity of every left item, and the false matches that thresholds let through."""
    similarity = np.sort(table.best_scores["similarity"].to_numpy())
    first = min(0.0, np.floor(similarity.min(initial=0.0) / _BIN_WIDTH) * _BIN_WIDTH)
    edges = np.round(np.arange(first, 1 + _BIN_WIDTH / 2, _BIN_WIDTH), _DIGITS)
    below = np.append(np.searchsorted(similarity, edges[:-1]), len(similarity))
    rates = false_match_rates(
        view.store,
        (table.left.catalog, table.right.catalog),
        table.left.fingerprint,
        table.right.count,
    )
    return Scores(
        version=table.commit.version,
        threshold=table.threshold,
        items=table.left.count,
        sampled=len(similarity),
        first=edges[0],
        width=_BIN_WIDTH,
        counts=np.diff(below).tolist(),
        false_match_rates=[FalseMatchRate(**row) for row in rates.rows.iter_rows(named=True)],
        measured_by=rates.source,
    )


@router.get("/api/review/{name}/features", responses={404: {}})
def get_features(
    request: Request, table: Reviewed, left_sha256: Sha256, right_sha256: Sha256
) -> MatchedFeatures:
    """The matched local features of two images of the match table."""
    for side, sha256 in zip(SIDES, (left_sha256, right_sha256), strict=True):
        if sha256 not in table.side(side).images["sha256"]:
            raise NotFoundError(f"no item of {table.side(side).catalog} has image {sha256}")
    try:
        found: MatchedFeatures = request.app.state.matched_features(left_sha256, right_sha256)
    except (CorruptFileError, ImageError) as error:
        raise NotFoundError(f"an image cannot be read: {error}") from error

    return found


def matched_features(store: Store, left_sha256: str, right_sha256: str) -> MatchedFeatures:
    """The matched local features of two images of a store.

    Raises:
        CorruptFileError: The bytes of an image are missing or damaged.
        ImageError: An image cannot be decoded.
        SettingsError: OpenCV is not installed.
    """
    found = matched_points(store, left_sha256, right_sha256)
    return MatchedFeatures(
        evidence=found.evidence.tier,
        inliers=found.evidence.inliers,
        transform=found.evidence.transform,
        left=found.left.tolist(),
        right=found.right.tolist(),
        matrix=found.matrix.tolist() if found.matrix is not None else None,
    )


@router.post("/api/review/{name}/decisions")
def post_decisions(
    request: Request, view: CurrentView, table: Reviewed, body: NewDecisions
) -> Recorded:
    """Record decisions. The next materialization of the match table honours them."""
    named = reviewer_of(request.headers, request.app.state.settings)
    reviewer = named or body.reviewer
    if not reviewer:
        raise DecisionError("reviewer is missing; name the person who decides")
    report = record_decisions(
        view.store, reviewed_name(table.name), body.rows(), reviewer, datetime.now(UTC)
    )
    return Recorded(added=report.added, reviewer=reviewer, verdicts=table.decisions().counts)
