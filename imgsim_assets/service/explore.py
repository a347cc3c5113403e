"""Pages of Explore: the items of a catalog, and one item with its neighbors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response

from imgsim_assets.errors import SettingsError
from imgsim_assets.pipeline.failures import EMBEDDINGS, IMAGES
from imgsim_assets.pipeline.status_actions import action_for
from imgsim_assets.service import explore_failures, explore_groups, explore_search
from imgsim_assets.service.browse import OPERATORS, Condition, browse
from imgsim_assets.service.catalog_rows import CatalogRows, read_shared_images
from imgsim_assets.service.errors import NotFoundError
from imgsim_assets.service.explore_page import (
    DIGITS,
    GROUPS,
    ITEMS,
    PAGE_ROWS,
    Catalog,
    ExplorePage,
    Page,
    answer,
    item_cards,
    position_of,
    shown_text,
    title_of,
)
from imgsim_assets.service.group_pages import group_of, group_tables
from imgsim_assets.service.item_record import graph_neighbors, item_images, item_matches
from imgsim_assets.service.view import CurrentView, View

_MAX_TRAIL = 12

router = APIRouter(prefix="/explore", include_in_schema=False, default_response_class=HTMLResponse)
for part in (explore_search, explore_groups, explore_failures):
    router.include_router(part.router)


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
    return answer(page, lambda: _items(page, conditions, status, sha256, after))


def _items(
    page: ExplorePage, conditions: Sequence[Condition], status: str, sha256: str, after: str
) -> Response:
    rows = page.read()
    filters: dict[str, Any] = {
        "column": [each.column for each in conditions],
        "op": [each.operator for each in conditions],
        "value": [each.value for each in conditions],
    }
    problem, shown = None, None
    try:
        found = browse(rows, conditions, status=status, sha256=sha256, after=after, limit=PAGE_ROWS)
    except SettingsError as error:
        problem = str(error)
    else:
        both = {**filters, "status": status, "sha256": sha256}
        has_previous = found.previous_cursor is not None
        shown = {
            "rows": item_cards(page, rows, found.rows),
            "previous": page.href(**both, after=found.previous_cursor) if has_previous else None,
            "next": page.href(**both, after=found.next_cursor) if found.next_cursor else None,
            "position": position_of(found.offset, found.rows.height, found.total, "items"),
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


@router.get("/{catalog}/item")
def show_item(
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    item_id: Annotated[str, Query(alias="id")],
    via: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """One item: its images, columns, results and neighbors.

    Args:
        page: the page.
        view: what is read from.
        catalog: the catalog.
        item_id: the item.
        via: the ids from which a person came here, the last one last.
    """
    return answer(page, lambda: _item(page, view, catalog, item_id, (via or [])[-_MAX_TRAIL:]))


def _item(page: ExplorePage, view: View, name: str, item_id: str, trail: Sequence[str]) -> Response:
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
        title=f"{shown_text(item_id, 80)} of {name}",
        item=item,
        columns=[(column, cell) for column, cell in item.items() if column != "id"],
        images=list(_images(page, view, name, item_id)),
        trail=[
            {"id": step, "href": page.item_href(step, via=trail[:number])}
            for number, step in enumerate(trail)
        ],
        neighbors=_neighbors(page, rows, edges, [*trail, item_id]) if edges is not None else None,
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


def _images(page: ExplorePage, view: View, name: str, item_id: str) -> Iterator[dict[str, Any]]:
    carriers = read_shared_images(view, name)
    for image in item_images(view, name, item_id).to_dicts():
        sha256 = image["sha256"]
        shared = carriers.filter(pl.col("sha256").eq_missing(sha256))["items"]
        is_fetched = image["status"] == "ok"
        stage, status = (
            (EMBEDDINGS, image["embedding"]) if is_fetched else (IMAGES, image["status"])
        )
        yield {
            **image,
            "action": action_for(stage, status) if status not in (None, "ok") else None,
            "carriers": shared[0] if len(shared) else 1,
            "carriers_href": page.href(sha256=sha256),
        }


def _neighbors(
    page: ExplorePage, catalog: CatalogRows, edges: pl.DataFrame, trail: Sequence[str]
) -> list[dict[str, Any]]:
    via = list(trail[-_MAX_TRAIL:])
    return [
        {
            "id": edge["dst_id"],
            "title": title_of(catalog, edge["dst_id"]),
            "sha256": edge.get("dst_sha256"),
            "similarity": edge["similarity"],
            "key": DIGITS[number] if number < len(DIGITS) else None,
            "href": page.item_href(edge["dst_id"], via=via),
        }
        for number, edge in enumerate(edges.to_dicts())
    ]


def _groups_with(
    page: ExplorePage, view: View, name: str, item_id: str
) -> Iterator[dict[str, str]]:
    for table in group_tables(view, name):
        group = group_of(view, table, name, item_id)
        if group is not None:
            yield {"table": table, "href": page.href(GROUPS, table=table, group=group)}
