"""Queries and similarity graphs over the reference items of a model, as DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.images.orientation import UPRIGHT, Orientation
from imgsim_assets.search.dataset import Dataset, DatasetOptions
from imgsim_assets.search.embedder import Embedder, Embeddings
from imgsim_assets.search.failures import Failure, report_failures
from imgsim_assets.search.image_ref import ImageDigests
from imgsim_assets.search.item_pairs import (
    ALTERNATIVE,
    QUERY,
    REFERENCE,
    by_mean_best,
    item_pairs,
    row_params,
    with_self,
)
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import Neighbors, SearchParams, is_normalized
from imgsim_assets.search.references import References
from imgsim_assets.similarity.cosine import Floats

QUERY_LABEL = "query_label"
QUERY_IMAGE = "query_image"
REFERENCE_LABEL = "reference_label"
REFERENCE_IMAGE = "reference_image"


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
    if orientation == UPRIGHT and _has_usable_vectors(dataset, embedder):
        embeddings = _given_embeddings(dataset)
        subject = "its vectors"
    else:
        embeddings = embedder.embed(
            dataset.images or [],
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
            dataset.rows,
            options.argument,
            ignore_failure=options.ignore_failure,
        )
    return embeddings


def _has_usable_vectors(dataset: Dataset, embedder: Embedder) -> bool:
    """Whether the vectors of a dataset are given, or those of a catalog with this encoder."""
    if dataset.images is None or dataset.catalog is None:
        return dataset.vectors is not None
    return embedder.normalize and dataset.catalog.fingerprint == embedder.fingerprint


def _given_embeddings(dataset: Dataset) -> Embeddings:
    if dataset.vectors is None or dataset.has_vector is None:
        raise AssertionError("a dataset without images has vectors")
    positions = np.flatnonzero(dataset.has_vector)
    failures = [
        Failure(row, f"row {item}", "no_vector", "the value is null")
        for row, item in enumerate(dataset.rows.item.tolist())
        if not dataset.has_vector[row]
    ]
    known = dataset.digests or [ImageDigests()] * len(dataset.rows)
    digests = [known[row] for row in positions.tolist()]
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
    if orientations and params.compare == "mean_best":
        raise SettingsError("compare: mean_best is not defined over orientations; use any or first")
    compared = references.compared(params.compare)
    alternatives = []
    for orientation in orientations or [UPRIGHT]:
        embeddings = embed_dataset(queries, references, embedder, options, orientation)
        if params.compare == "first":
            embeddings = embeddings.take(queries.rows.take(embeddings.positions).firsts)
        neighbors = compared.search(embeddings.vectors, row_params(params, compared.rows))
        alternatives.append((embeddings, neighbors))
    if params.compare == "mean_best":
        rows = queries.rows.take(embeddings.positions)
        pairs = _mean_best_pairs(neighbors, rows, embeddings.vectors, references, params)
    else:
        searches = [
            replace(neighbors, query=embeddings.positions[neighbors.query])
            for embeddings, neighbors in alternatives
        ]
        pairs = item_pairs(searches, queries.rows, compared.rows, params.k)
    frame = _labeled(pairs, queries.labels, queries.rows, references)
    if not orientations:
        return frame
    names = [orientations[position].name for position in pairs[ALTERNATIVE]]
    return frame.with_columns(pl.Series("orientation", names, dtype=pl.String))


def _mean_best_pairs(
    neighbors: Neighbors,
    rows: ItemRows,
    vectors: Floats,
    references: References,
    params: SearchParams,
) -> pl.DataFrame:
    """The pairs of items by the mean over the query images (rows, vectors) of the best one."""
    vectors = references.comparable(vectors)
    if not (is_normalized(vectors) and is_normalized(references.vectors)):
        raise SettingsError(
            "compare: mean_best is a mean of cosines, and these vectors are not of length 1; "
            "create the model with metric='cosine'"
        )
    pairs = item_pairs([neighbors], rows, references.rows, None)
    stored = (references.rows, references.vectors)
    return by_mean_best(pairs, (rows, vectors), stored, references.metric, params)


def text_frame(
    text: str | Sequence[str], references: References, embedder: Embedder, params: SearchParams
) -> pl.DataFrame:
    """The items nearest to one or several texts, which are the labels, as `query_frame`.

    Raises:
        SettingsError: for an empty text, or an encoder without a text tower.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise SettingsError("text: give a text, or a list of texts, none of them empty")
    vectors = embedder.embed_texts(texts)
    references.require_dimension(vectors, "text: the encoder's vectors have")
    compared = references.compared(params.compare)
    # A text is a query with one image, whose mean is its best.
    params = replace(params, compare="any")
    neighbors = compared.search(vectors, row_params(params, compared.rows))
    rows = ItemRows.single(len(texts))
    pairs = item_pairs([neighbors], rows, compared.rows, params.k)
    return _labeled(pairs, pl.Series(texts, dtype=pl.String), rows, references)


def graph_frame(
    references: References, k: int | None, radius: float | None, *, include_self_edges: bool
) -> pl.DataFrame:
    """The edges of `ImageSimilarityModel.similarity_graph`, with the columns of a query."""
    params = SearchParams(k, radius)
    rows = references.rows
    # A row may find every row of its own item first.
    wider_params = row_params(params, rows, self_rows=rows.max_images)
    neighbors = references.search(references.vectors, wider_params)
    is_other = rows.item[neighbors.query] != rows.item[neighbors.reference]
    pairs = item_pairs([neighbors.filter(is_other)], rows, rows, params.k)
    if include_self_edges:
        pairs = with_self(pairs, rows)
    if params.k is not None:
        pairs = pairs.filter(pl.int_range(pl.len()).over(QUERY) < params.k)
    return _labeled(pairs, references.labels, rows, references)


def _labeled(
    pairs: pl.DataFrame, query_labels: pl.Series, query_rows: ItemRows, references: References
) -> pl.DataFrame:
    """Pairs of items with their labels and ranks; image numbers where a side has several."""
    columns = [query_labels.gather(pairs[QUERY]).alias(QUERY_LABEL)]
    if query_rows.has_numbers:
        columns.append(pairs["left_image"].alias(QUERY_IMAGE))
    columns.append(references.labels.gather(pairs[REFERENCE]).alias(REFERENCE_LABEL))
    if references.rows.has_numbers:
        columns.append(pairs["right_image"].alias(REFERENCE_IMAGE))
    rank = pl.int_range(1, pl.len() + 1).over(QUERY).cast(pl.Int32).alias("rank")
    return pl.DataFrame([*columns, pairs["distance"], pairs.select(rank).to_series()])
