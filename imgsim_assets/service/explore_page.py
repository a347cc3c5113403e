"""What all pages of Explore show: the tabs of a catalog, where its rows come from, errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import polars as pl
from fastapi import Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response

from imgsim_assets.download.status import OK
from imgsim_assets.errors import ImgsimError
from imgsim_assets.pages.templates import render
from imgsim_assets.service.catalog_rows import PENDING, CatalogRows, read_catalog
from imgsim_assets.service.dagster_links import origin_of
from imgsim_assets.service.errors import status_of
from imgsim_assets.service.paging import MAX_OFFSET
from imgsim_assets.service.view import CurrentView, View
from imgsim_assets.text import counted, printable_line

if TYPE_CHECKING:
    from imgsim_assets.service.settings import ServeSettings

ITEMS, SEARCH, GROUPS = "", "search", "groups"
FAILURES, PLACEHOLDERS = "failures", "placeholders"
_LABELS = {
    ITEMS: "Items",
    SEARCH: "Search",
    GROUPS: "Duplicate groups",
    FAILURES: "Failures",
    PLACEHOLDERS: "Shared images",
}
# Keys that follow the first items of a result.
DIGITS = "123456789"
_MAX_TEXT = 400
_MAX_URL = 2000


# Rows of one page.
PAGE_ROWS = 60
Catalog = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]*$", description="name of a catalog")]
Start = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="rows before the page")]


class Tab(NamedTuple):
    """A link to one page of a catalog, with the number of rows there."""

    name: str
    label: str
    href: str
    rows: int | None


class ExplorePage:
    """Renders the pages of one catalog for one request.

    Args:
        request: the request.
        view: what the request reads from.
        catalog: the name of the catalog.
    """

    def __init__(self, request: Request, view: View, catalog: str) -> None:
        self._request, self._view, self._name = request, view, catalog
        self.url = partial(_url, str(request.scope.get("root_path", "")))

    def read(self) -> CatalogRows:
        """The rows of the catalog.

        Raises:
            NotFoundError: there is no such catalog.
        """
        return read_catalog(self._view, self._name)

    def href(self, page: str = ITEMS, **parameters: Any) -> str:
        """The URL of a page of the catalog."""
        return self.url(f"/explore/{self._name}" + (f"/{page}" if page else ""), **parameters)

    def item_href(self, item_id: str, catalog: str | None = None, **parameters: Any) -> str:
        """The URL of the page of an item."""
        return self.url(f"/explore/{catalog or self._name}/item", id=item_id, **parameters)

    def render(
        self, template: str, current: str, sources: Sequence[str] = (), **values: Any
    ) -> HTMLResponse:
        """A page of the catalog.

        Args:
            template: its file.
            current: the name of its tab.
            sources: the tables that it shows, which link to their assets and runs.
            values: of the template.
        """
        settings: ServeSettings = self._request.app.state.settings
        commits = (self._view.commits.get(table) for table in sources)
        label = f"{_LABELS[current]} of {self._name}"
        return self._page(
            template,
            200,
            title=f"{values.pop('title', label)}: imgsim",
            current=current,
            tabs=self._tabs(),
            problem=values.pop("problem", None),
            sources=[origin_of(commit, settings.dagster_url) for commit in commits if commit],
            **values,
        )

    def error(self, error: ImgsimError) -> HTMLResponse:
        """A page that shows what is wrong with a request."""
        shown: dict[str, Any] = {"current": None, "tabs": [], "problem": str(error), "sources": []}
        return self._page("explore.html", status_of(error), **shown)

    def _page(self, template: str, code: int, **values: Any) -> HTMLResponse:
        shared = {
            "root": self._request.scope.get("root_path", ""),
            "title": f"{self._name}: imgsim",
            "catalog": self._name,
            "catalogs": self._view.catalogs,
            "url": self.url,
            "text": shown_text,
            "link": foreign_link,
            "number": "{:,}".format,
            "count": counted,
        }
        return HTMLResponse(render(template, **{**shared, **values}), code)

    def _tabs(self) -> list[Tab]:
        rows = self.read()
        rejects = self._view.commits.get(f"{self._name}/rejects")
        failed = rows.images.filter(~rows.images["status"].is_in([OK, PENDING])).height
        counts = {
            ITEMS: rows.items.height,
            FAILURES: failed + (rejects.rows if rejects is not None else 0),
        }
        return [
            Tab(name, label, self.href(name), counts.get(name)) for name, label in _LABELS.items()
        ]


def _page_of(request: Request, view: CurrentView, catalog: Catalog) -> ExplorePage:
    return ExplorePage(request, view, catalog)


Page = Annotated[ExplorePage, Depends(_page_of)]


def answer(page: ExplorePage, build: Callable[[], Response]) -> Response:
    """A response, or a page that shows what is wrong with the request."""
    try:
        return build()
    except ImgsimError as error:
        return page.error(error)


def item_cards(page: ExplorePage, catalog: CatalogRows, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Items as cards."""
    return [
        {
            **{name: row[name] for name in ("id", "sha256", "status", "images")},
            "title": _title(catalog, row),
            "href": page.item_href(row["id"]),
        }
        for row in rows.to_dicts()
    ]


def title_of(catalog: CatalogRows, item_id: str) -> str | None:
    """The title of an item on a card: its first carried column that has a text."""
    position = catalog.position(item_id)
    return (
        _title(catalog, catalog.items.row(position, named=True)) if position is not None else None
    )


def _title(catalog: CatalogRows, row: Mapping[str, Any]) -> str | None:
    texts = (row[name] for name in catalog.carried if isinstance(row.get(name), str))
    return next(filter(None, texts), None)


def position_of(start: int, shown: int, total: int, noun: str) -> str:
    """Where a page is among all rows."""
    if not shown:
        return f"0 {noun}"
    return f"{start + 1:,} to {start + shown:,} of {total:,} {noun}"


def steps(
    page: ExplorePage, tab: str, start: int, end: int, total: int, **parameters: Any
) -> dict[str, str | None]:
    """The URLs of the pages before and after the rows from `start` to `end`."""
    before = max(start - PAGE_ROWS, 0)
    return {
        "previous": page.href(tab, start=before or None, **parameters) if start else None,
        "next": page.href(tab, start=end, **parameters) if end < total else None,
    }


def shown_text(value: Any, length: int = _MAX_TEXT) -> str:
    """Text of others on one line: cut, without control characters and passwords of URLs."""
    return printable_line(_as_text(value), length)


def foreign_link(value: Any) -> str | None:
    """The URL of a page of others, if a cell is one that a browser can open without harm."""
    if not isinstance(value, str) or len(value) > _MAX_URL:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    is_page = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    return value if is_page else None


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value[:20]))
    return str(value)


def _url(root: str, path: str, **parameters: Any) -> str:
    """A path of this server with its parameters; empty ones are left out."""
    given: Mapping[str, Any] = {
        name: value for name, value in parameters.items() if value not in (None, "", [])
    }
    query = urlencode(given, doseq=True)
    return f"{root}{path}?{query}" if query else f"{root}{path}"
