from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsim_assets.errors import SettingsError
from imgsim_assets.search import neighbors
from imgsim_assets.search.neighbors import Neighbors, SearchParams, find_neighbors, normalize

_SMALL = st.integers(-3, 3).map(float)


def _rows(min_rows: int = 1) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(min_rows, 12), st.just(4))
    return arrays(np.float32, shape, elements=_SMALL)


def _pairs(result: Neighbors) -> list[tuple[int, int, float]]:
    return list(
        zip(result.query.tolist(), result.reference.tolist(), result.distance.tolist(), strict=True)
    )


def _brute_force(
    queries: np.ndarray, references: np.ndarray, params: SearchParams
) -> list[tuple[int, int, float]]:
    expected = []
    for i, query in enumerate(queries.astype(np.float64)):
        distance = np.sqrt(np.square(query - references.astype(np.float64)).sum(axis=1))
        order = np.lexsort((np.arange(len(distance)), distance))
        if params.radius is not None:
            order = order[distance[order] <= params.radius]
        expected += [(i, int(j), float(distance[j])) for j in order[: params.k]]
    return expected


@settings(deadline=None, max_examples=150)
@given(_rows(), _rows(), st.none() | st.integers(1, 15), st.none() | st.integers(0, 8))
def test_euclidean_neighbors_equal_brute_force(
    queries: np.ndarray, references: np.ndarray, k: int | None, radius: int | None
) -> None:
    params = SearchParams(k, None if radius is None else float(radius))
    # Integers with many ties; adding a quarter avoids unit vectors.
    queries, references = queries + np.float32(0.25), references + np.float32(0.25)

    result = find_neighbors(queries, references, "euclidean", params)

    assert _pairs(result) == _brute_force(queries, references, params)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.none() | st.integers(1, 9), st.none() | st.floats(0, 2))
def test_neighbors_of_unit_vectors_equal_brute_force(
    seed: int, k: int | None, radius: float | None
) -> None:
    generator = np.random.default_rng(seed)
    queries = normalize(generator.normal(size=(5, 16)).astype(np.float32), "q")
    references = normalize(generator.normal(size=(7, 16)).astype(np.float32), "r")

    result = find_neighbors(queries, references, "euclidean", SearchParams(k, radius))
    cosine = find_neighbors(queries, references, "cosine", SearchParams(k))

    expected = _brute_force(queries, references, SearchParams(k, radius))
    assert [pair[:2] for pair in _pairs(result)] == [pair[:2] for pair in expected]
    assert result.distance == pytest.approx([pair[2] for pair in expected], abs=1e-6)
    wide = queries.astype(np.float64) @ references.astype(np.float64).T
    assert cosine.distance == pytest.approx(1 - wide[cosine.query, cosine.reference], abs=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_radius_is_inclusive_to_the_last_digit(metric: neighbors.Metric) -> None:
    generator = np.random.default_rng(3)
    rows = normalize(generator.normal(size=(40, 24)).astype(np.float32), "rows")
    everything = find_neighbors(rows, rows, metric, SearchParams(None))

    for position in range(0, len(everything.distance), 97):
        radius = float(everything.distance[position])
        within = find_neighbors(rows, rows, metric, SearchParams(None, radius))

        assert len(within.distance) == int((everything.distance <= radius).sum())


def test_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    queries = generator.normal(size=(30, 8)).astype(np.float32) * 9
    references = generator.normal(size=(50, 8)).astype(np.float32) * 9
    whole = find_neighbors(queries, references, "euclidean", SearchParams(4))

    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 512)

    assert _pairs(find_neighbors(queries, references, "euclidean", SearchParams(4))) == _pairs(
        whole
    )


def test_equal_vectors_have_distance_zero_at_any_length() -> None:
    rows = np.array([[1e6, 3.3], [1e6, 3.3000002], [0, 0]], dtype=np.float32)

    result = find_neighbors(rows, rows, "euclidean", SearchParams(1))

    assert _pairs(result) == [(0, 0, 0.0), (1, 1, 0.0), (2, 2, 0.0)]


def test_normalize_rejects_a_zero_vector() -> None:
    with pytest.raises(SettingsError, match="row 1 is zero and has no cosine"):
        normalize(np.array([[1, 0], [0, 0]], dtype=np.float32), "dataset")


@pytest.mark.parametrize(
    ("k", "radius", "message"),
    [
        (0, None, "k is 0; it must be at least 1"),
        (2.5, None, "k is 2.5; give an integer"),
        (True, None, "k is True; give an integer"),
        (5, -0.1, "radius is -0.1; it must be 0 or more"),
        (5, float("nan"), "radius is nan"),
    ],
)
def test_invalid_search_params_are_refused(k: int, radius: float | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SearchParams(k, radius)
