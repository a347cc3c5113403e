"""Pages of Explore: duplicate groups, and judging the pairs of a group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from imgsim_assets.errors import ImgsimError
from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.service.errors import NotFoundError, status_of
from imgsim_assets.service.explore_page import (
    GROUPS,
    Catalog,
    ExplorePage,
    Page,
    Start,
    answer,
    position_of,
)
from imgsim_assets.service.group_pages import (
    BY_ID,
    ORDERS,
    decisions_name,
    group_tables,
    read_groups,
)
from imgsim_assets.service.security import reviewer_of
from imgsim_assets.service.view import CurrentView, View

_GROUPS_OF_PAGE = 12

router = APIRouter()


@router.get("/{catalog}/groups")
def show_groups(
    request: Request,
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    table: str = "",
    order: str = BY_ID,
    start: Start = 0,
    group: str = "",
) -> Response:
    """Duplicate groups that have items of a catalog."""
    reviewer = reviewer_of(request.headers, request.app.state.settings)
    return answer(
        page, lambda: _groups(page, view, catalog, (table, order, start, group), reviewer)
    )


def _groups(
    page: ExplorePage,
    view: View,
    name: str,
    chosen: tuple[str, str, int, str],
    reviewer: str | None,
) -> Response:
    table, order, start, group = chosen
    tables = group_tables(view, name)
    if table and table not in tables:
        raise NotFoundError(
            f"{name} is in no groups {table!r}; it is in {', '.join(tables) or '-'}"
        )
    if not tables:
        return page.render("explore_groups.html", GROUPS, tables=[])
    table = table or tables[0]
    found = read_groups(
        view, table, order=order, start=start, limit=_GROUPS_OF_PAGE, group=group or None
    )
    for each in found.groups:
        for row, _ in each.members:
            row["href"] = page.item_href(row["id"], row["catalog"])

    def at(first: int | None) -> str | None:
        if first is None:
            return None
        return page.href(GROUPS, table=table, order=order, start=first, group=group)

    return page.render(
        "explore_groups.html",
        GROUPS,
        (table,),
        tables=[(each, page.href(GROUPS, table=each)) for each in tables],
        table=table,
        show_catalog=len(view.commit(table).properties["catalogs"]) > 1,
        order=order,
        orders=[
            (each, label, page.href(GROUPS, table=table, order=each))
            for each, label in ORDERS.items()
        ],
        group=group,
        all_groups=page.href(GROUPS, table=table, order=order),
        here=at(start),
        reviewer=reviewer or "",
        reviewer_is_given=reviewer is not None,
        page={
            "groups": found.groups,
            "previous": at(found.previous_start),
            "next": at(found.next_start),
            "position": position_of(found.start, len(found.groups), found.total, "groups"),
        },
    )


@router.post("/{catalog}/groups")
def judge_pair(
    request: Request,
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    left_id: Annotated[str, Form()],
    right_id: Annotated[str, Form()],
    left_sha256: Annotated[str, Form()],
    right_sha256: Annotated[str, Form()],
    verdict: Annotated[str, Form()],
    reviewer: Annotated[str, Form()] = "",
    table: str = "",
) -> Response:
    """Record a decision about a pair of a group."""
    decision = {
        "left_id": left_id,
        "right_id": right_id,
        "left_sha256": left_sha256,
        "right_sha256": right_sha256,
        "verdict": verdict,
    }
    is_program = "text/html" not in request.headers.get("accept", "")
    name = reviewer_of(request.headers, request.app.state.settings) or reviewer
    try:
        if table not in group_tables(view, catalog):
            raise NotFoundError(f"{catalog} is in no groups {table!r}")
        now = datetime.now(UTC)
        report = record_decisions(view.store, decisions_name(table), [decision], name, now)
    except ImgsimError as error:
        if is_program:
            return JSONResponse({"detail": str(error)}, status_of(error))
        return page.error(error)
    if is_program:
        return JSONResponse({"added": report.added, "version": report.version})
    here = {key: request.query_params.get(key) for key in ("table", "order", "start", "group")}
    return RedirectResponse(page.href(GROUPS, **here), 303)
