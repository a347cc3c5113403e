"""Pages of Explore: search by id, by words, by text and by image."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.responses import Response

from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.errors import ImgsimError
from imgsim_assets.service.browse import find_words
from imgsim_assets.service.explore_page import (
    DIGITS,
    SEARCH,
    Catalog,
    ExplorePage,
    Page,
    item_cards,
    title_of,
)
from imgsim_assets.service.view import CurrentView, View

if TYPE_CHECKING:
    from imgsim_assets.service.catalog_index import CatalogIndex
    from imgsim_assets.service.query_encoder import QueryEncoder
    from imgsim_assets.similarity.cosine import Floats

_FOUND = 24
_NEAREST = 24
_MAX_QUESTION = 500

router = APIRouter()


@router.get("/{catalog}/search")
async def show_search(
    request: Request,
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    q: Annotated[str, Query(max_length=_MAX_QUESTION)] = "",
) -> Response:
    """Search by id, by words of the columns, and by what an image shows."""
    question = q.strip()
    try:
        index, can_encode, hint = await asyncio.to_thread(_text_search, view, catalog)
        shown: dict[str, Any] = {}
        if question:
            rows = await asyncio.to_thread(page.read)
            found, total = await asyncio.to_thread(find_words, rows, question, _FOUND)
            shown = {"found": item_cards(page, rows, found), "more_found": total - found.height}
            shown["total_found"] = total
        if question and index is not None and can_encode:
            encoder: QueryEncoder = request.app.state.encoder
            title = f"Images that show \u201c{question}\u201d"
            shown |= await _nearest(page, index, encoder.encode_text(index, question), title)
        return await asyncio.to_thread(
            _render, page, request, question=question, hint=hint, **shown
        )
    except ImgsimError as error:
        return page.error(error)


@router.post("/{catalog}/search")
async def search_by_image(
    request: Request,
    page: Page,
    view: CurrentView,
    catalog: Catalog,
    file: Annotated[UploadFile, File(description="image to search for")],
) -> Response:
    """Search by an image that a person chose, dropped or pasted."""
    encoder: QueryEncoder = request.app.state.encoder
    try:
        index = await asyncio.to_thread(view.index, catalog)
        vectors = encoder.encode_images(index, [await file.read()])
        shown = await _nearest(page, index, vectors, "Most similar items")
        _, _, hint = await asyncio.to_thread(_text_search, view, catalog)
        return await asyncio.to_thread(_render, page, request, hint=hint, **shown)
    except ImgsimError as error:
        return page.error(error)


async def _nearest(
    page: ExplorePage, index: CatalogIndex, vectors: Awaitable[Floats], title: str
) -> dict[str, Any]:
    """The items nearest to some vectors; what is wrong with the query goes to its page."""
    try:
        queries = await vectors
    except ImgsimError as error:
        return {"problem": str(error)}
    found = await asyncio.to_thread(index.nearest, queries, _NEAREST)
    catalog = await asyncio.to_thread(page.read)
    results = [
        {
            "id": row["id"],
            "title": title_of(catalog, row["id"]),
            "sha256": row["sha256"],
            "similarity": row["similarity"],
            "key": DIGITS[number] if number < len(DIGITS) else None,
            "href": page.item_href(row["id"]),
        }
        for number, row in enumerate(found.to_dicts())
    ]
    return {"results": results, "results_title": title}


def _text_search(view: View, catalog: str) -> tuple[CatalogIndex | None, bool, str]:
    """The index, whether its encoder may have a text tower, and what to tell people about it."""
    if f"{catalog}/index" not in view.commits:
        return None, False, f"{catalog} has no index yet, by which images are found."
    index = view.index(catalog)
    encoder = encoder_from_commit(index.commit)
    if encoder.may_encode_text:
        return index, True, f"Words are also compared with the images, by {encoder.describe()}."
    return (
        index,
        False,
        (
            f"Words are found in ids and columns only: the encoder {encoder.describe()} cannot "
            "compare texts with images. One with a text tower can, such as "
            "open_clip/ViT-B-32/laion2b_s34b_b79k."
        ),
    )


def _render(page: ExplorePage, request: Request, **values: Any) -> Response:
    defaults: dict[str, Any] = {"question": "", "results_title": "", "more_found": 0}
    defaults |= {"max_upload_bytes": request.app.state.settings.max_upload_bytes}
    defaults |= {"found": None, "results": None, "total_found": 0}
    return page.render("explore_search.html", SEARCH, **{**defaults, **values})
