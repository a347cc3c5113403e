"""Laws of queries and graphs over items with several images: they equal brute force."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.search.neighbors import normalize
from imgsim_assets.similarity.cosine import pair_cosines
from imgsim_assets_tests.support.model_datasets import create_model, query_model

_ITEMS = st.lists(
    st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
)


def _dataset(items: list[list[list[int]]], offset: float) -> pl.Series:
    rows = [[[value + offset for value in vector] for vector in item] for item in items]
    return pl.Series("vectors", rows, dtype=pl.List(pl.List(pl.Float32)))


@settings(deadline=None, max_examples=150)
@given(_ITEMS, _ITEMS, st.none() | st.integers(1, 9), st.none() | st.sampled_from([0.0, 0.5, 1.0]))
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_k_items_equal_brute_force(
    metric: str,
    queries: list[list[list[int]]],
    references: list[list[list[int]]],
    k: int | None,
    radius: float | None,
) -> None:
    # Small integers have many ties; the offset avoids vectors of length 0 and 1.
    model = create_model(_dataset(references, 0.25), metric=metric)

    result = query_model(model, _dataset(queries, 0.25), k=k, radius=radius)

    expected = _brute_force(queries, references, metric, k, radius)
    assert [row[:2] + row[2:4] for row in _numbered(result)] == expected


def _numbered(result: pl.DataFrame) -> list[tuple[int, int, int, int]]:
    """query_label, reference_label, query_image, reference_image."""
    missing = [
        pl.lit(0).alias(n) for n in ("query_image", "reference_image") if n not in result.columns
    ]
    columns = ["query_label", "reference_label", "query_image", "reference_image"]
    return result.with_columns(missing).select(columns).rows()


def _brute_force(
    queries: list[list[list[int]]],
    references: list[list[list[int]]],
    metric: str,
    k: int | None,
    radius: float | None,
    *,
    exclude_self: bool = False,
) -> list[tuple[int, int, int, int]]:
    expected = []
    for i, query in enumerate(queries):
        found = []
        for j, reference in enumerate(references):
            if exclude_self and i == j:
                continue
            scores = [
                (-_score(left, right, metric), a, b)
                for a, left in enumerate(query)
                for b, right in enumerate(reference)
            ]
            best, a, b = min(scores)
            if radius is None or _distance(best, metric) <= radius:
                found.append((best, j, a, b))
        expected += [(i, j, a, b) for _, j, a, b in sorted(found)[:k]]
    return expected


def _score(left: list[int], right: list[int], metric: str) -> float:
    rows = np.array([left, right], np.float32) + np.float32(0.25)
    if metric == "euclidean":
        difference = rows[0].astype(np.float64) - rows[1]
        return -float(np.sqrt(np.square(difference).sum()))
    unit = normalize(rows, "rows")
    return float(pair_cosines(unit, unit, np.array([0]), np.array([1]))[0])


def _distance(negative_score: float, metric: str) -> float:
    return negative_score if metric == "euclidean" else 1.0 + negative_score


@settings(deadline=None, max_examples=80)
@given(_ITEMS, st.none() | st.integers(1, 9), st.booleans())
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_graph_of_k_other_items_equals_brute_force(
    metric: str, items: list[list[list[int]]], k: int | None, with_self: bool
) -> None:
    model = create_model(_dataset(items, 0.25), metric=metric)

    frame = model.similarity_graph(k, include_self_edges=with_self, output_type="frame")

    others = _brute_force(items, items, metric, k, None, exclude_self=True)
    expected = []
    for item in range(len(items)):
        own = [(item, item, 0, 0)] if with_self else []
        expected += [*own, *(pair for pair in others if pair[0] == item)][:k]
    assert _numbered(frame) == expected


@settings(deadline=None, max_examples=80)
@given(_ITEMS, _ITEMS, st.none() | st.integers(1, 9), st.sampled_from([0.3, 1.0, 2.0]))
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_mean_of_best_images_equals_brute_force(
    metric: str,
    queries: list[list[list[int]]],
    references: list[list[list[int]]],
    k: int | None,
    radius: float,
) -> None:
    unit = pl.Series(
        "v",
        [[_unit(vector) for vector in item] for item in references],
        dtype=pl.List(pl.List(pl.Float32)),
    )
    model = create_model(unit, metric=metric)
    asked = [[_unit(vector) for vector in item] for item in queries]

    result = query_model(model, asked, k=k, radius=radius, compare="mean_best")

    expected = []
    for i, query in enumerate(queries):
        found = []
        for j, item in enumerate(references):
            bests = [max(_score(a, b, "cosine") for b in item) for a in query]
            # As a mean of equal numbers, which rounding must not lift above them.
            mean = min(sum(bests) / len(bests), max(bests))
            distance = 1.0 - mean if metric == "cosine" else float(np.sqrt(max(0, 2 - 2 * mean)))
            if distance <= radius:
                found.append((-mean, j, distance))
        expected += [(i, j, distance) for _, j, distance in sorted(found)[:k]]
    assert result.select("query_label", "reference_label").rows() == [row[:2] for row in expected]
    assert result["distance"].to_list() == pytest.approx([row[2] for row in expected], abs=1e-9)


def _unit(vector: list[int]) -> list[float]:
    row: list[float] = normalize(np.array([vector], np.float32) + np.float32(0.25), "row")[
        0
    ].tolist()
    return row
