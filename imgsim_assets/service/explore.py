"""The pages under /explore: items, one item and its neighbors, groups, failures, shared images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from imgsim_assets.errors import ImgsimError, SettingsError
from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.pipeline.failures import EMBEDDINGS, IMAGES, read_failures
from imgsim_assets.pipeline.status_actions import action_for
from imgsim_assets.service.browse import OPERATORS, Condition, browse
from imgsim_assets.service.catalog_rows import CatalogRows, read_shared_images
from imgsim_assets.service.errors import NotFoundError, status_of
from imgsim_assets.service.explore_page import (
    FAILURES,
    GROUPS,
    ITEMS,
    PLACEHOLDERS,
    ExplorePage,
)
from imgsim_assets.service.group_pages import (
    BY_ID,
    ORDERS,
    decisions_name,
    group_of,
    read_groups,
)
from imgsim_assets.service.item_record import graph_neighbors, item_images, item_matches
from imgsim_assets.service.security import reviewer_of
from imgsim_assets.service.view import CurrentView, View
from imgsim_assets.similarity.duplicate_groups import SEPARATOR

Catalog = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]*$", description="name of a catalog")]
_PAGE = 60
_GROUPS_OF_PAGE = 12
_MAX_TRAIL = 12
# Keys that follow the first neighbors.
_DIGITS = "123456789"

router = APIRouter(prefix="/explore", include_in_schema=False, default_response_class=HTMLResponse)


def _page(request: Request, view: CurrentView, catalog: Catalog) -> ExplorePage:
    return ExplorePage(request, view, catalog)


Page = Annotated[ExplorePage, Depends(_page)]


def _answer(page: ExplorePage, build: Callable[[], Response]) -> Response:
    """A response, or a page that shows what is wrong with the request."""
    try:
        return build()
    except ImgsimError as error:
        return page.error(error)


@router.get("/{catalog}")
def show_items(
    page: Page,
    column: Annotated[list[str] | None, Query()] = None,
    op: Annotated[list[str] | None, Query()] = None,
    value: Annotated[list[str] | None, Query()] = None,
    status: str = "",
    sha256: str = "",
    after: str = "",
) -> Response:
    """Browse the items of a catalog."""
    given = zip(column or [], op or [], value or [], strict=False)
    conditions = [Condition(*each) for each in given if each[0]]
    return _answer(page, lambda: _items(page, conditions, status, sha256, after))


def _items(
    page: ExplorePage, conditions: Sequence[Condition], status: str, sha256: str, after: str
) -> Response:
    rows = page.read()
    filters = {
        "column": [each.column for each in conditions],
        "op": [each.operator for each in conditions],
        "value": [each.value for each in conditions],
    }
    problem, shown = None, None
    try:
        found = browse(rows, conditions, status=status, sha256=sha256, after=after, limit=_PAGE)
    except SettingsError as error:
        problem = str(error)
    else:
        both = {**filters, "status": status, "sha256": sha256}
        has_previous = found.previous_cursor is not None
        shown = {
            "rows": _cards(page, rows, found.rows),
            "previous": page.href(**both, after=found.previous_cursor) if has_previous else None,
            "next": page.href(**both, after=found.next_cursor) if found.next_cursor else None,
            "position": _position(found.offset, found.rows.height, found.total, "items"),
        }
    return page.render(
        "explore_items.html",
        ITEMS,
        (f"{rows.name}/items", f"{rows.name}/images", f"{rows.name}/embeddings"),
        problem=problem,
        page=shown,
        conditions=conditions,
        columns=rows.items.columns,
        operators=OPERATORS,
        status=status,
        sha256=sha256,
        statuses=[
            (name, count, page.href(**filters, sha256=sha256, status=name))
            for name, count in rows.status_counts.items()
        ],
        everything=rows.items.height,
        all_statuses=page.href(**filters, sha256=sha256),
        without_image=page.href(**filters, status=status),
    )


def _cards(page: ExplorePage, catalog: CatalogRows, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Items as cards: `title` is the first carried column that has a text."""
    cards = []
    for row in rows.to_dicts():
        texts = (row[name] for name in catalog.carried if isinstance(row[name], str))
        known = {name: row[name] for name in ("id", "sha256", "status", "images")}
        title = next(filter(None, texts), None)
        cards.append({**known, "title": title, "href": page.item_href(row["id"])})
    return cards


def _position(start: int, shown: int, total: int, noun: str) -> str:
    return f"{start + 1:,} to {start + shown:,} of {total:,} {noun}" if shown else f"0 {noun}"


# ---- one item -------------------------------------------------------------------------------


@router.get("/{catalog}/item")
def show_item(
    page: Page, view: CurrentView, catalog: Catalog, id: str, via: Annotated[list[str] | None, Query()] = None
) -> Response:
    """One item: its images, columns, results and neighbors.

    Args:
        page: the page.
        view: what is read from.
        catalog: the catalog.
        id: of the item.
        via: the ids from which a person came here, the last one last.
    """
    return _answer(page, lambda: _item(page, view, catalog, id, (via or [])[-_MAX_TRAIL:]))


def _item(
    page: ExplorePage, view: View, name: str, item_id: str, trail: Sequence[str]
) -> Response:
    rows = page.read()
    position = rows.position(item_id)
    if position is None:
        raise NotFoundError(f"{name} has no item {item_id!r}")
    item = rows.items.row(position, named=True)
    edges = graph_neighbors(view, name, item_id)
    matches = item_matches(view, name, item_id)
    return page.render(
        "explore_item.html",
        ITEMS,
        (f"{name}/items", f"{name}/images", f"{name}/similarity_graph"),
        item=item,
        columns=[(column, cell) for column, cell in item.items() if column != "id"],
        images=list(_images(page, view, name, item_id)),
        trail=[
            {"id": step, "href": page.item_href(step, via=trail[:number])}
            for number, step in enumerate(trail)
        ],
        neighbors=_neighbors(page, edges, [*trail, item_id]) if edges is not None else None,
        matches=[
            {
                "id": match.row[f"{match.other}_id"],
                "sha256": match.row.get(f"{match.other}_sha256"),
                "similarity": match.row["similarity"],
                "catalog": match.catalog,
                "href": page.item_href(match.row[f"{match.other}_id"], match.catalog),
            }
            for match in matches
        ],
        match_tables=list(dict.fromkeys(match.table.removeprefix("matches/") for match in matches)),
        groups=list(_groups_with(page, view, name, item_id)),
    )


def _images(
    page: ExplorePage, view: View, name: str, item_id: str
) -> Iterable[dict[str, Any]]:
    carriers = read_shared_images(view, name)
    for image in item_images(view, name, item_id).to_dicts():
        sha256 = image["sha256"]
        shared = carriers.filter(pl.col("sha256") == sha256)["items"] if sha256 else []
        is_fetched = image["status"] == "ok"
        stage, status = (
            (EMBEDDINGS, image["embedding"]) if is_fetched else (IMAGES, image["status"])
        )
        yield {
            **image,
            "action": action_for(stage, status) if status not in (None, "ok") else None,
            "carriers": int(shared[0]) if len(shared) else 1,
            "carriers_href": page.href(sha256=sha256),
        }


def _neighbors(
    page: ExplorePage, edges: pl.DataFrame, trail: Sequence[str]
) -> list[dict[str, Any]]:
    via = list(trail[-_MAX_TRAIL:])
    return [
        {
            "id": edge["dst_id"],
            "sha256": edge.get("dst_sha256"),
            "similarity": edge["similarity"],
            "key": _DIGITS[number] if number < len(_DIGITS) else None,
            "href": page.item_href(edge["dst_id"], via=via),
        }
        for number, edge in enumerate(edges.to_dicts())
    ]


def _groups_with(
    page: ExplorePage, view: View, name: str, item_id: str
) -> Iterable[dict[str, str]]:
    for table in _group_tables(view, name):
        group = group_of(view, table, name, item_id)
        if group is not None:
            yield {"table": table, "href": page.href(GROUPS, table=table, group=group)}


# ---- duplicate groups -----------------------------------------------------------------------


@router.get("/{catalog}/groups")
def show_groups(
    request: Request,
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    table: str = "",
    order: str = BY_ID,
    start: Annotated[int, Query(ge=0)] = 0,
    group: str = "",
) -> Response:
    """Duplicate groups that have items of a catalog."""
    reviewer = reviewer_of(request.headers, request.app.state.settings)
    return _answer(
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
    tables = _group_tables(view, name)
    if table and table not in tables:
        raise NotFoundError(f"{name} is in no groups {table!r}; it is in {', '.join(tables) or '-'}")
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
            "position": _position(found.start, len(found.groups), found.total, "groups"),
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
        if table not in _group_tables(view, catalog):
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


def _group_tables(view: View, name: str) -> list[str]:
    """The tables of groups that compare a catalog, its own ones first."""
    tables = [
        table
        for table in view.group_tables
        if name in view.commit(table).properties.get("catalogs", [])
    ]
    return sorted(tables, key=lambda table: (not table.startswith(f"{name}{SEPARATOR}"), table))


# ---- failures and shared images -------------------------------------------------------------


@router.get("/{catalog}/failures")
def show_failures(
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    status: str = "",
    start: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """What failed, why, when it is tried again, and what to do."""
    return _answer(page, lambda: _failures(page, view, catalog, status, start))


def _failures(page: ExplorePage, view: View, name: str, status: str, start: int) -> Response:
    page.read()
    tables = [f"{name}/{table}" for table in ("rejects", "images", "embeddings", "items")]
    versions = tuple(commit.commit_id for commit in map(view.commits.get, tables) if commit)
    failures = view.cache.get(("failures", name, versions), lambda: read_failures(view.store, name))
    counts = failures["status"].value_counts().sort(["count", "status"], descending=[True, False])
    chosen = failures.filter(pl.col("status") == status) if status else failures
    shown = chosen.slice(start, _PAGE)
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
            **_steps(page, FAILURES, start, end, chosen.height, status=status),
            "position": _position(start, shown.height, chosen.height, "failures"),
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
    page: Page, view: CurrentView, catalog: Catalog, start: Annotated[int, Query(ge=0)] = 0
) -> Response:
    """Images that several items have."""
    return _answer(page, lambda: _placeholders(page, view, catalog, start))


def _placeholders(page: ExplorePage, view: View, name: str, start: int) -> Response:
    shared = read_shared_images(view, name)
    shown = shared.slice(start, _PAGE)
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
            **_steps(page, PLACEHOLDERS, start, start + shown.height, shared.height),
            "position": _position(start, shown.height, shared.height, "images"),
        },
    )


def _steps(
    page: ExplorePage, tab: str, start: int, end: int, total: int, **parameters: Any
) -> dict[str, str | None]:
    """The URLs of the pages before and after some rows."""
    before = max(start - _PAGE, 0)
    return {
        "previous": page.href(tab, start=before or None, **parameters) if start else None,
        "next": page.href(tab, start=end, **parameters) if end < total else None,
    }


