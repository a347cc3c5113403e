"""The first page: what the store has, with links to where it is reviewed and explored."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from imgsim_assets.pages.templates import render
from imgsim_assets.service.results import read_results
from imgsim_assets.service.view import CurrentView

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
def get_home(request: Request, view: CurrentView) -> HTMLResponse:
    """The catalogs, match tables and duplicate groups of the store."""
    results = read_results(view)
    root = request.scope.get("root_path", "")
    return HTMLResponse(render("home.html", title=results.store, results=results, root=root))
