"""Pages of Explore: what failed, and images that several items have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from fastapi import APIRouter
from fastapi.responses import Response

from imgsim_assets.pipeline.failures import read_failures
from imgsim_assets.pipeline.status_actions import action_for
from imgsim_assets.service.catalog_rows import read_shared_images
from imgsim_assets.service.explore_page import (
    FAILURES,
    PAGE_ROWS,
    PLACEHOLDERS,
    Catalog,
    ExplorePage,
    Page,
    Start,
    answer,
    position_of,
    steps,
)
from imgsim_assets.service.view import CurrentView, View

router = APIRouter()


@router.get("/{catalog}/failures")
def show_failures(
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    status: str = "",
    start: Start = 0,
) -> Response:
    """What failed, why, when it is tried again, and what to do."""
    return answer(page, lambda: _failures(page, view, catalog, status, start))


def _failures(page: ExplorePage, view: View, name: str, status: str, start: int) -> Response:
    page.read()
    tables = [f"{name}/{table}" for table in ("rejects", "images", "embeddings", "items")]
    versions = tuple(commit.commit_id for commit in map(view.commits.get, tables) if commit)
    failures = view.cache.get(
        ("failures", name, versions), lambda: read_failures(view.pinned, name)
    )
    counts = failures["status"].value_counts().sort(["count", "status"], descending=[True, False])
    chosen = failures.filter(pl.col("status") == status) if status else failures
    shown = chosen.slice(start, PAGE_ROWS)
    end = start + shown.height
    return page.render(
        "explore_failures.html",
        FAILURES,
        tuple(tables[:3]),
        total=failures.height,
        status=status,
        statuses=[
            {
                "status": each,
                "count": count,
                "href": page.href(FAILURES, status=each),
                "is_current": each == status,
            }
            for each, count in counts.iter_rows()
        ],
        page={
            "rows": [_failure(page, row) for row in shown.to_dicts()],
            **steps(page, FAILURES, start, end, chosen.height, status=status),
            "position": position_of(start, shown.height, chosen.height, "failures"),
        },
    )


def _failure(page: ExplorePage, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "href": page.item_href(row["id"]) if row["id"] is not None else None,
        "action": action_for(row["stage"], row["status"]),
    }


@router.get("/{catalog}/placeholders")
def show_placeholders(
    page: Page, view: CurrentView, catalog: Catalog, start: Start = 0
) -> Response:
    """Images that several items have."""
    return answer(page, lambda: _placeholders(page, view, catalog, start))


def _placeholders(page: ExplorePage, view: View, name: str, start: int) -> Response:
    shared = read_shared_images(view, name)
    shown = shared.slice(start, PAGE_ROWS)
    return page.render(
        "explore_placeholders.html",
        PLACEHOLDERS,
        (f"{name}/images",),
        page={
            "rows": [
                {
                    **row,
                    "href": page.href(sha256=row["sha256"]),
                    "line": f"{row['sha256']},{row['items']} items of {name}",
                }
                for row in shown.to_dicts()
            ],
            **steps(page, PLACEHOLDERS, start, start + shown.height, shared.height),
            "position": position_of(start, shown.height, shared.height, "images"),
        },
    )
