"""Queries and similarity graphs over the reference items of a model, as DataFrames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.dataset import Dataset, DatasetOptions
from imgsim_assets.search.embedder import Embedder, Embeddings
from imgsim_assets.search.failures import Failure, report_failures
from imgsim_assets.search.image_ref import ImageDigests
from imgsim_assets.search.neighbors import Neighbors, SearchParams, nearest_alternatives
from imgsim_assets.search.orientation import ORIENTATIONS, UPRIGHT, Orientation
from imgsim_assets.search.references import References

QUERY_LABEL = "query_label"
REFERENCE_LABEL = "reference_label"


def embed_dataset(
    dataset: Dataset,
    references: References,
    embedder: Embedder,
    options: DatasetOptions,
    batch_size: int | None,
    orientation: Orientation = UPRIGHT,
) -> Embeddings:
    """The vectors of a dataset: given ones, those of equal reference images, or encoded ones.

    Raises:
        SettingsError: when their dimension is not that of the references.
        EncoderError: when the encoder cannot be loaded.
    """
    if dataset.images is None:
        embeddings = _given_embeddings(dataset)
        subject = f"{options.argument}: its vectors have"
    else:
        embeddings = embedder.embed(
            dataset.images,
            known_vectors=references.vectors_by_digest(),
            orientation=orientation,
            batch_size=batch_size,
            log=options.log,
        )
        subject = f"{options.argument}: the encoder's vectors have"
    references.require_dimension(embeddings.vectors, subject)
    return embeddings


def _given_embeddings(dataset: Dataset) -> Embeddings:
    if dataset.vectors is None or dataset.is_null is None:
        raise AssertionError("a dataset without images has vectors")
    positions = np.flatnonzero(~dataset.is_null)
    failures = [
        Failure(row, f"row {row}", "no_vector", "the value is null")
        for row in np.flatnonzero(dataset.is_null).tolist()
    ]
    digests = [ImageDigests()] * len(positions)
    return Embeddings(positions, dataset.vectors[positions], digests, failures)


def query_frame(
    queries: Dataset,
    references: References,
    params: SearchParams,
    embed: Callable[[Orientation], Embeddings],
    *,
    orientations: bool,
    ignore_failure: bool,
) -> pl.DataFrame:
    """The result of `ImageSimilarityModel.query`; `embed` returns the vectors of the queries."""
    if orientations and queries.images is None:
        raise SettingsError("orientations: vectors cannot be rotated; query with images")

    def search(embeddings: Embeddings) -> Neighbors:
        neighbors = references.search(embeddings.vectors, params)
        return replace(neighbors, query=embeddings.positions[neighbors.query])

    upright = embed(UPRIGHT)
    report_failures(upright.failures, len(queries), "dataset", ignore_failure=ignore_failure)
    if not orientations:
        return _label_pairs(search(upright), queries.labels, references.labels)
    others = [search(embed(orientation)) for orientation in ORIENTATIONS[1:]]
    neighbors, nearest = nearest_alternatives([search(upright), *others], params.k)
    names = [ORIENTATIONS[index].name for index in nearest]
    return _label_pairs(neighbors, queries.labels, references.labels).with_columns(
        pl.Series("orientation", names, dtype=pl.String)
    )


def graph_frame(
    references: References, k: int | None, radius: float | None, *, include_self_edges: bool
) -> pl.DataFrame:
    """The edges of `ImageSimilarityModel.similarity_graph`, with the columns of a query."""
    params = SearchParams(k, radius)
    # An item may find itself, so search for one neighbor more.
    wider_params = replace(params, k=None if k is None else k + 1)
    neighbors = references.search(references.vectors, wider_params)
    neighbors = neighbors.filter(neighbors.query != neighbors.reference)
    if include_self_edges:
        neighbors = neighbors.with_self(len(references))
    if params.k is not None:
        neighbors = neighbors.head(params.k)
    return _label_pairs(neighbors, references.labels, references.labels)


def _label_pairs(
    neighbors: Neighbors, query_labels: pl.Series, reference_labels: pl.Series
) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            QUERY_LABEL: query_labels.gather(neighbors.query),
            REFERENCE_LABEL: reference_labels.gather(neighbors.reference),
            "distance": neighbors.distance,
            "query": neighbors.query,
        },
        schema_overrides={"distance": pl.Float64},
    )
    rank = pl.int_range(1, pl.len() + 1).over("query").cast(pl.Int32).alias("rank")
    return frame.with_columns(rank).drop("query")
