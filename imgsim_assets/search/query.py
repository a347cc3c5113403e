"""Queries and similarity graphs over the reference items of a model, as DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.dataset import Dataset, DatasetOptions
from imgsim_assets.search.embedder import Embedder, Embeddings
from imgsim_assets.search.failures import Failure, report_failures
from imgsim_assets.search.image_ref import ImageDigests
from imgsim_assets.search.neighbors import Neighbors, SearchParams, nearest_alternatives
from imgsim_assets.search.orientation import UPRIGHT, Orientation
from imgsim_assets.search.references import References

QUERY_LABEL = "query_label"
REFERENCE_LABEL = "reference_label"


def embed_dataset(
    dataset: Dataset,
    references: References,
    embedder: Embedder,
    options: DatasetOptions,
    orientation: Orientation = UPRIGHT,
) -> Embeddings:
    """The vectors of a dataset: given ones, those of equal reference images, or encoded ones.

    Failures are reported for the upright orientation only.
    """
    if dataset.images is None:
        embeddings = _given_embeddings(dataset)
        subject = "its vectors"
    else:
        embeddings = embedder.embed(
            dataset.images,
            known_vectors=references.vectors_by_digest() if orientation == UPRIGHT else None,
            orientation=orientation,
            batch_size=options.batch_size,
            log=options.log,
        )
        subject = "the encoder's vectors"
    references.require_dimension(embeddings.vectors, f"{options.argument}: {subject} have")
    if orientation == UPRIGHT:
        report_failures(
            embeddings.failures,
            len(dataset),
            options.argument,
            ignore_failure=options.ignore_failure,
        )
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
    embedder: Embedder,
    params: SearchParams,
    options: DatasetOptions,
    orientations: Sequence[Orientation] | None = None,
) -> pl.DataFrame:
    """The result of `ImageSimilarityModel.query`, over the upright queries or all orientations."""
    if orientations and queries.images is None:
        raise SettingsError("orientations: vectors cannot be rotated; query with images")
    alternatives = []
    for orientation in orientations or [UPRIGHT]:
        embeddings = embed_dataset(queries, references, embedder, options, orientation)
        neighbors = references.search(embeddings.vectors, params)
        rows = embeddings.positions[neighbors.query]
        alternatives.append(replace(neighbors, query=rows))
    if not orientations:
        return _label_pairs(alternatives[0], queries.labels, references.labels)
    neighbors, nearest = nearest_alternatives(alternatives, params.k)
    names = [orientations[index].name for index in nearest]
    return _label_pairs(neighbors, queries.labels, references.labels).with_columns(
        pl.Series("orientation", names, dtype=pl.String)
    )


def text_frame(
    texts: Sequence[str], references: References, embedder: Embedder, params: SearchParams
) -> pl.DataFrame:
    """The items nearest to texts, with the columns of `query_frame`; the labels are the texts.

    Raises:
        SettingsError: for an empty text, or an encoder without a text tower.
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise SettingsError("text: give a text, or a list of texts, none of them empty")
    vectors = embedder.embed_texts(texts)
    references.require_dimension(vectors, "text: the encoder's vectors have")
    neighbors = references.search(vectors, params)
    return _label_pairs(neighbors, pl.Series(texts, dtype=pl.String), references.labels)


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
