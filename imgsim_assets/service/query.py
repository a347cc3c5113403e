"""Searches: the items of a catalog nearest to an image, a URL, an item, a vector or a text."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
from fastapi import APIRouter, File, Path, Query, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.status import FetchError
from imgsim_assets.errors import SettingsError
from imgsim_assets.service.catalog_index import CatalogIndex
from imgsim_assets.service.errors import PROBLEMS, NotFoundError
from imgsim_assets.service.json_rows import json_rows
from imgsim_assets.service.query_encoder import QueryEncoder
from imgsim_assets.service.view import CurrentView, View
from imgsim_assets.similarity.cosine import Floats

router = APIRouter(prefix="/api/query", tags=["query"], responses=PROBLEMS)

_MAX_K = 1000
_MAX_DIM = 16_384
_MAX_IMAGES = 16
_MAX_URL = 2_000
_MAX_TEXT = 1_000
_Kind = Literal["image", "url", "id", "vector", "text"]

CatalogName = Annotated[
    str, Path(pattern=r"^[a-z][a-z0-9_]*$", max_length=64, description="name of the catalog")
]
_K = Field(10, ge=1, le=_MAX_K, description="items, at most")
_THRESHOLD = Field(None, ge=-1, le=1, description="smallest similarity (cosine), inclusive")
_RADIUS = Field(
    None, ge=0, le=2, description="largest distance (Euclidean, of unit vectors), inclusive"
)


class Limits(BaseModel):
    """What of the nearest items is returned."""

    model_config = ConfigDict(extra="forbid")

    k: int = _K
    threshold: float | None = _THRESHOLD
    radius: float | None = _RADIUS


class QueryRequest(Limits):
    """What is searched for: one of url, id, vector and text."""

    url: str | None = Field(None, max_length=_MAX_URL, description="http or https URL of an image")
    id: str | None = Field(None, description="an item, whose images are all searched for")
    of: str | None = Field(
        None, description="the catalog of `id`, if it is another one with the same encoder"
    )
    vector: list[float] | None = Field(
        None, min_length=1, max_length=_MAX_DIM, description="a vector of the catalog's encoder"
    )
    text: str | None = Field(
        None, min_length=1, max_length=_MAX_TEXT, description="for an encoder with a text tower"
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        given = [
            name for name in ("url", "id", "vector", "text") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(f"give one of url, id, vector and text, not {len(given)}")
        if self.of is not None and self.id is None:
            raise ValueError("of is the catalog of an id")
        return self

    @property
    def kind(self) -> _Kind:
        """Which of them is given."""
        kinds: tuple[_Kind, ...] = ("url", "id", "vector", "text")
        return next(kind for kind in kinds if getattr(self, kind) is not None)


class Neighbor(BaseModel):
    """An item that was found."""

    id: str
    image: int = Field(description="number of its nearest image")
    sha256: str = Field(description="of that image")
    query_image: int = Field(description="number of the query's image to which it is nearest")
    similarity: float = Field(description="cosine")
    distance: float = Field(description="Euclidean distance of the unit vectors")
    rank: int = Field(description="from 1")
    item: dict[str, Any] = Field(description="url and the carried columns of the item")


class QueryResult(BaseModel):
    """The nearest items, from the index at one version."""

    catalog: str
    version: int = Field(description="of the index")
    kind: Literal["flat", "ivf"] = Field(description="flat is exact, ivf approximate")
    neighbors: list[Neighbor]


@router.post("/{catalog}")
async def query(
    request: Request, view: CurrentView, catalog: CatalogName, body: QueryRequest
) -> QueryResult:
    """Search by the URL of an image, an item, a vector or a text.

    An item is not among its own neighbors. URLs are fetched as a catalog's images are: from public
    addresses only, unless the service allows an internal host.
    """
    index = await asyncio.to_thread(open_catalog, view, catalog)
    vectors = await _vectors(request, view, index, body)
    is_own = body.id is not None and body.of in (None, catalog)
    return await _search(
        request, view, index, vectors, body, body.kind, [body.id] if is_own else []
    )


@router.post("/{catalog}/image")
async def query_by_image(
    request: Request,
    view: CurrentView,
    catalog: CatalogName,
    image: Annotated[
        list[UploadFile],
        File(min_length=1, max_length=_MAX_IMAGES, description="image files of one item"),
    ],
    limits: Annotated[Limits, Query()],
) -> QueryResult:
    """Search by an image, or by several of one item."""
    index = await asyncio.to_thread(open_catalog, view, catalog)
    encoder: QueryEncoder = request.app.state.encoder
    vectors = await encoder.encode_images(index, [await file.read() for file in image])
    return await _search(request, view, index, vectors, limits, "image", [])


def open_catalog(view: View, catalog: str) -> CatalogIndex:
    """The index of a catalog.

    Raises:
        NotFoundError: The store has no such catalog.
        StoreError: It has no index, or a damaged one.
    """
    if catalog not in view.catalogs:
        raise NotFoundError(f"the store has no catalog {catalog!r}")
    return view.index(catalog)


async def _vectors(request: Request, view: View, index: CatalogIndex, body: QueryRequest) -> Floats:
    encoder: QueryEncoder = request.app.state.encoder
    if body.url is not None:
        client: HttpClient = request.app.state.http_client
        return await encoder.encode_images(index, [await _fetch(client, body.url)])
    if body.text is not None:
        return await encoder.encode_text(index, body.text)
    if body.vector is not None:
        return _unit_vector(body.vector, index.index.dim)
    return await asyncio.to_thread(_item_vectors, view, index, body)


async def _fetch(client: HttpClient, url: str) -> bytes:
    try:
        fetched = await client.fetch(url)
    except FetchError as error:
        raise SettingsError(f"url: {error.status}: {error.detail}") from error
    if fetched.data is None:
        raise AssertionError("a request without validators is not answered by 304")
    return fetched.data


def _unit_vector(values: list[float], dim: int) -> Floats:
    vector = np.asarray(values, np.float64)
    length = float(np.linalg.norm(vector))
    if len(vector) != dim:
        raise SettingsError(f"vector: it has {len(vector)} numbers, and the index {dim}")
    if not np.isfinite(length) or length == 0:
        raise SettingsError("vector: it is zero, or not finite")
    return (vector / length).astype(np.float32)[None]


def _item_vectors(view: View, index: CatalogIndex, body: QueryRequest) -> Floats:
    source = index if body.of is None else open_catalog(view, body.of)
    if source.fingerprint != index.fingerprint:
        raise SettingsError(f"of: the vectors of catalog {body.of} are of another encoder")
    positions = source.positions_of(body.id or "")
    if not len(positions):
        raise NotFoundError(f"the index has no item {body.id!r}")
    return source.index.vectors_at(positions)


async def _search(
    request: Request,
    view: View,
    index: CatalogIndex,
    vectors: Floats,
    limits: Limits,
    kind: _Kind,
    without: list[str | None],
) -> QueryResult:
    left_out = [item for item in without if item is not None]
    request.app.state.metrics.queries.labels(index.catalog, kind).inc()

    def search() -> QueryResult:
        found = index.nearest(vectors, limits.k, left_out)
        return _result(view, index, _within(found, limits))

    return await asyncio.to_thread(search)


def _within(found: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    if limits.threshold is not None:
        found = found.filter(pl.col("similarity") >= limits.threshold)
    if limits.radius is not None:
        found = found.filter(pl.col("distance") <= limits.radius)
    return found


def _result(view: View, index: CatalogIndex, found: pl.DataFrame) -> QueryResult:
    items = view.items(index.catalog, found["id"])
    return QueryResult(
        catalog=index.catalog,
        version=index.commit.version,
        kind=index.commit.properties["kind"],
        neighbors=[Neighbor(**row, item=items.get(row["id"], {})) for row in json_rows(found)],
    )
