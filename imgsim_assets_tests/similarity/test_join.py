from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import cosine_matrix, radius_join, threshold_join, top_k
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines
from imgsim_assets_tests.support.fresh_python import printed_lines
from imgsim_assets_tests.support.vectors import (
    cosines,
    families,
    lattice,
    nearly_equal,
    noise,
)

MAKERS: Sequence[Callable[[int, int, int], Floats]] = (noise, families, lattice, nearly_equal)
BUDGETS = st.sampled_from([1, 200, 5_000, 100_000, 256 << 20])
SIZES = st.integers(0, 40)
HALF = np.float32(0.5)


@st.composite
def sides(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Two arrays of rows, each of one kind, some of the right ones copies of left ones."""
    makers = [draw(st.sampled_from(MAKERS)) for _ in range(2)]
    dim = draw(st.sampled_from([4, 16, 64]) if lattice in makers else st.integers(1, 130))
    seed = draw(st.integers(0, 2**32 - 1))
    left, right = (make(max(1, draw(SIZES)), dim, seed) for make in makers)
    for _ in range(draw(st.integers(0, 4))):
        right[draw(st.integers(0, len(right) - 1))] = left[draw(st.integers(0, len(left) - 1))]
    return left[draw(st.integers(0, 1)) :], right[draw(st.integers(0, 1)) :]


# ---- threshold_join ---------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    rows=sides(),
    threshold=st.one_of(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.845, 1.0]), st.floats(-1, 1)),
    budget=BUDGETS,
)
def test_threshold_join_equals_the_definition(
    rows: tuple[Floats, Floats], threshold: float, budget: int
) -> None:
    left, right = rows

    i, j, similarity = threshold_join(left, right, threshold, memory_budget=budget)

    _assert_is_the_join(left, right, threshold, i, j, similarity)


@pytest.mark.parametrize("dim", [1, 2, 3, 17, 128, 772, 1280, 2048])
@pytest.mark.parametrize("make", MAKERS)
def test_threshold_join_is_exact_for_every_width(
    dim: int, make: Callable[[int, int, int], Floats]
) -> None:
    left, right = make(23, dim, 1), make(31, dim, 1)
    thresholds = np.quantile(cosines(left, right), [0.1, 0.5, 0.9]).tolist()

    for threshold in [*thresholds, 1.0]:
        i, j, similarity = threshold_join(left, right, threshold, memory_budget=3000)

        _assert_is_the_join(left, right, threshold, i, j, similarity)


@pytest.mark.parametrize("seed", range(4))
def test_threshold_join_decides_pairs_within_float32_rounding_of_the_threshold(
    seed: int,
) -> None:
    left, right = noise(5, 512, seed + 10), nearly_equal(200, 512, seed)
    scores = cosines(left, right)
    misjudged = 0

    for threshold in np.quantile(scores, np.linspace(0, 1, 11), axis=1, method="nearest").ravel():
        i, j, similarity = threshold_join(left, right, float(threshold))

        _assert_is_the_join(left, right, float(threshold), i, j, similarity)
        naive = left @ right.T >= np.float32(threshold)
        misjudged += int((naive != (scores >= threshold)).sum())
    assert misjudged > 50


def test_threshold_is_inclusive() -> None:
    left = np.array([[HALF, HALF, HALF, HALF]])
    right = np.array([[1, 0, 0, 0], [0, 0, 0, -1], [HALF, HALF, HALF, -HALF]], np.float32)

    at = threshold_join(left, right, 0.5)
    above = threshold_join(left, right, np.nextafter(0.5, 1))
    least = threshold_join(left, right, -0.5)

    assert [part.tolist() for part in at] == [[0, 0], [0, 2], [0.5, 0.5]]
    assert [part.tolist() for part in above] == [[], [], []]
    assert [part.tolist() for part in least] == [[0, 0, 0], [0, 2, 1], [0.5, 0.5, -0.5]]


@pytest.mark.parametrize("dim", [1, 3, 772, 1280, 2048])
def test_threshold_one_finds_identical_rows(dim: int) -> None:
    rows = noise(50, dim, seed=2) if dim > 1 else np.ones((50, 1), np.float32)

    i, j, similarity = threshold_join(rows, rows.copy(), 1.0)

    assert {(at, at) for at in range(50)} <= set(zip(i.tolist(), j.tolist(), strict=True))
    assert (similarity == 1.0).all()


def test_threshold_minus_one_finds_every_pair() -> None:
    rows = np.concatenate([noise(6, 9, seed=3), -noise(6, 9, seed=3)])

    i, _, similarity = threshold_join(rows, rows, -1.0)

    assert len(i) == 144
    assert similarity.min() == -1.0


@settings(max_examples=50, deadline=None)
@given(rows=sides(), threshold=st.floats(-1, 1), budgets=st.lists(BUDGETS, min_size=2, max_size=2))
def test_threshold_join_is_bitwise_equal_for_any_memory_budget(
    rows: tuple[Floats, Floats], threshold: float, budgets: list[int]
) -> None:
    results = [threshold_join(*rows, threshold, memory_budget=budget) for budget in budgets]

    _assert_same_bits(*results)


@settings(max_examples=50, deadline=None)
@given(rows=sides(), threshold=st.floats(-1, 1), seed=st.integers(0, 2**32 - 1))
def test_threshold_join_of_shuffled_rows_is_the_shuffled_join(
    rows: tuple[Floats, Floats], threshold: float, seed: int
) -> None:
    left, right = rows
    rng = np.random.default_rng(seed)
    p, q = rng.permutation(len(left)), rng.permutation(len(right))

    i, j, similarity = threshold_join(left[p], right[q], threshold)

    i, j = p[i], q[j]
    order = np.lexsort((j, -similarity, i))
    _assert_same_bits(
        (i[order], j[order], similarity[order]), threshold_join(left, right, threshold)
    )


@pytest.mark.parametrize("rows", [20, 70, 200])
def test_threshold_join_is_symmetric_bit_by_bit(rows: int) -> None:
    left, right = lattice(rows, 6, seed=1), lattice(70, 6, seed=2)

    i, j, similarity = threshold_join(left, right, 0.5)

    order = np.lexsort((i, -similarity, j))
    _assert_same_bits((j[order], i[order], similarity[order]), threshold_join(right, left, 0.5))
    assert len(i)


def test_threshold_join_over_several_tiles_is_exact() -> None:
    left, right = families(1300, 8, seed=4), families(4500, 8, seed=4)
    right[4400] = left[1200]

    i, j, similarity = threshold_join(left, right, 0.98)

    expected = left.astype(np.float64) @ right.T.astype(np.float64)
    assert (1200, 4400) in set(zip(i.tolist(), j.tolist(), strict=True))
    clear = np.abs(expected - 0.98) > 1e-6
    is_pair = np.zeros(expected.shape, dtype=bool)
    is_pair[i, j] = True
    np.testing.assert_array_equal(is_pair[clear], (expected >= 0.98)[clear])
    assert (similarity >= 0.98).all()


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 0), (0, 1)])
def test_threshold_join_with_an_empty_input_is_empty(n: int, m: int) -> None:
    i, j, similarity = threshold_join(noise(n, 5, 0), noise(m, 5, 1), -1.0)

    assert (len(i), len(j), len(similarity)) == (0, 0, 0)
    assert i.dtype == j.dtype == np.int64
    assert similarity.dtype == np.float64


def test_threshold_join_of_single_rows() -> None:
    i, j, similarity = threshold_join(noise(1, 5, 0), noise(1, 5, 0), 1.0)

    assert (i.tolist(), j.tolist(), similarity.tolist()) == ([0], [0], [1.0])


def test_threshold_join_accepts_float64_rows_in_any_layout() -> None:
    rows = families(20, 12, seed=5)
    wide = np.asfortranarray(rows.astype(np.float64))

    _assert_same_bits(threshold_join(wide, wide, 0.4), threshold_join(rows, rows, 0.4))


# ---- top_k ------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(rows=sides(), k=st.integers(1, 50), budget=BUDGETS)
def test_top_k_equals_the_definition(rows: tuple[Floats, Floats], k: int, budget: int) -> None:
    queries, references = rows

    index, similarity = top_k(queries, references, k, memory_budget=budget)

    _assert_are_nearest(queries, references, k, index, similarity)


@pytest.mark.parametrize("dim", [1, 2, 3, 17, 128, 772, 1280, 2048])
@pytest.mark.parametrize("make", MAKERS)
def test_top_k_is_exact_for_every_width(dim: int, make: Callable[[int, int, int], Floats]) -> None:
    queries, references = make(17, dim, 1), make(29, dim, 1)
    for k in (1, 5, 29):
        index, similarity = top_k(queries, references, k, memory_budget=2000)

        _assert_are_nearest(queries, references, k, index, similarity)


@pytest.mark.parametrize("seed", range(4))
def test_top_k_orders_neighbors_within_float32_rounding_by_float64(seed: int) -> None:
    queries, references = noise(20, 512, seed + 10), nearly_equal(300, 512, seed)

    index, similarity = top_k(queries, references, 5)

    _assert_are_nearest(queries, references, 5, index, similarity)
    by_float32 = np.argsort(-(queries @ references.T), axis=1, kind="stable")[:, :5]
    assert (by_float32 != index).any()


def test_top_k_breaks_ties_by_lower_row() -> None:
    references = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)[[0, 4, 1, 5, 2, 6]]

    index, similarity = top_k(np.eye(3, dtype=np.float32)[:1], references, 5)

    assert index.tolist() == [[0, 2, 4, 1, 3]]
    assert similarity.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]]


def test_top_k_breaks_ties_by_lower_row_over_several_tiles() -> None:
    references = np.zeros((9000, 4), np.float32)
    references[:, 1] = 1
    references[[8999, 4096, 4095, 17]] = [1, 0, 0, 0]

    index, _ = top_k(np.array([[1, 0, 0, 0]], np.float32), references, 6)

    assert index.tolist() == [[17, 4095, 4096, 8999, 0, 1]]


@settings(max_examples=60, deadline=None)
@given(rows=sides(), k=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), copied=st.booleans())
def test_top_k_omits_neighbors_below_the_minimum_of_a_query(
    rows: tuple[Floats, Floats], k: int, seed: int, copied: bool
) -> None:
    queries, references = rows
    if copied and len(queries):
        queries = np.repeat(queries, 2, axis=0)
    minimums = np.random.default_rng(seed).uniform(-1, 1, len(queries))
    index, similarity = top_k(queries, references, k)

    neighbors = top_k(queries, references, k, min_similarity=minimums)

    above = similarity >= minimums[:, None]
    _assert_same_bits(neighbors, (np.where(above, index, -1), np.where(above, similarity, np.nan)))


def test_top_k_pads_missing_neighbors() -> None:
    index, similarity = top_k(noise(2, 5, 0), noise(3, 5, 1), 5)

    assert (index[:, 3:] == -1).all()
    assert np.isnan(similarity[:, 3:]).all()
    assert sorted(index[0, :3].tolist()) == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(rows=sides(), k=st.integers(1, 9), budgets=st.lists(BUDGETS, min_size=2, max_size=2))
def test_top_k_is_bitwise_equal_for_any_memory_budget(
    rows: tuple[Floats, Floats], k: int, budgets: list[int]
) -> None:
    results = [top_k(*rows, k, memory_budget=budget) for budget in budgets]

    _assert_same_bits(*results)


@settings(max_examples=50, deadline=None)
@given(rows=sides(), k=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_top_k_of_shuffled_rows_has_the_same_neighbors_and_cosines(
    rows: tuple[Floats, Floats], k: int, seed: int
) -> None:
    queries, references = rows
    rng = np.random.default_rng(seed)
    p, q = rng.permutation(len(queries)), rng.permutation(len(references))
    index, similarity = top_k(queries, references, k)

    shuffled = top_k(queries[p], references, k)
    among_shuffled = top_k(queries, references[q], k)

    _assert_same_bits(shuffled, (index[p], similarity[p]))
    np.testing.assert_array_equal(among_shuffled[1], similarity)
    rows_found = among_shuffled[0]
    back = np.where(rows_found >= 0, q[rows_found], -1) if len(q) else rows_found
    # The order of rows decides only among those tied with the last neighbor.
    required = similarity > similarity[:, -1:]
    np.testing.assert_array_equal(
        np.sort(np.where(required, back, -1), axis=1),
        np.sort(np.where(required, index, -1), axis=1),
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_top_k_with_an_empty_input_has_no_neighbors(n: int, m: int) -> None:
    index, similarity = top_k(noise(n, 5, 0), noise(m, 5, 1), 2)

    assert index.shape == similarity.shape == (n, 2)
    assert (index == -1).all()


# ---- radius_join and cosine_matrix --------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.one_of(st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.floats(0, 2.1)),
)
def test_radius_join_equals_the_definition(seed: int, radius: float) -> None:
    left, right = families(20, 12, seed), families(25, 12, seed)

    i, j, apart = radius_join(left, right, radius)

    expected = np.sqrt(np.maximum(0, 2 - 2 * cosine_matrix(left, right)))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(
        zip(*(part.tolist() for part in np.nonzero(expected <= radius)), strict=True)
    )
    np.testing.assert_array_equal(apart, expected[i, j])
    np.testing.assert_array_equal(np.lexsort((j, apart, i)), np.arange(len(i)))


def test_radius_is_inclusive() -> None:
    rows = lattice(40, 4, seed=1)
    apart = radius_join(rows, rows, 2.0)[2]

    for radius in np.unique(apart):
        assert len(radius_join(rows, rows, float(radius))[0]) == int((apart <= radius).sum())
        below = float(np.nextafter(radius, -1))
        if below >= 0:
            assert len(radius_join(rows, rows, below)[0]) == int((apart < radius).sum())


@pytest.mark.parametrize("radius", [-0.1, float("nan")])
def test_invalid_radius_is_rejected(radius: float) -> None:
    with pytest.raises(ValueError, match="is not a distance; it must be at least 0"):
        radius_join(noise(1, 2, 0), noise(1, 2, 1), radius)


def test_cosine_matrix_equals_the_join_bit_by_bit() -> None:
    left, right = families(30, 48, 3), families(20, 48, 3)

    matrix = cosine_matrix(left, right)

    np.testing.assert_allclose(matrix, cosines(left, right), rtol=0, atol=1e-15)
    i, j, similarity = threshold_join(left, right, -1.0)
    np.testing.assert_array_equal(matrix[i, j], similarity)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (2, 0)])
def test_cosine_matrix_may_be_empty(n: int, m: int) -> None:
    assert cosine_matrix(noise(n, 5, 0), noise(m, 5, 1)).shape == (n, m)


def test_cosine_matrix_rejects_rows_of_different_widths() -> None:
    with pytest.raises(ValueError, match="left has rows of 3 numbers, right of 4"):
        cosine_matrix(noise(2, 3, 0), noise(2, 4, 0))


# ---- threads and processors -------------------------------------------------------------

_DIGEST = """
import hashlib
from imgsim_assets.similarity import prefilter, threshold_join, top_k
from imgsim_assets_tests.support.vectors import families
left, right = families(1500, 96, 1), families(2500, 96, 1)
for prefilter._MIN_PROJECTED_WORK in (0, 1e99):
    parts = [*threshold_join(left, right, 0.7), *top_k(left, right, 7)]
    print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def test_results_are_bitwise_equal_for_any_thread_count_and_instruction_set() -> None:
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    three = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    runs = [
        printed_lines(_DIGEST, **given) for given in (one, three, {"OPENBLAS_CORETYPE": "Nehalem"})
    ]

    assert len({digest for run in runs for digest in run}) == 1


# ---- memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [16, 64])
def test_working_memory_stays_within_the_budget(megabytes: int) -> None:
    left, right = noise(2500, 64, seed=6), noise(6000, 64, seed=7)
    budget = megabytes << 20

    assert _peak(lambda: threshold_join(left, right, 0.9, memory_budget=budget)) <= budget
    assert _peak(lambda: top_k(left, right, 10, memory_budget=budget)) <= budget


def test_working_memory_stays_within_the_budget_for_equal_rows() -> None:
    copies = np.repeat(noise(1, 4, seed=6), 2500, axis=0)
    budget = 16 << 20

    assert _peak(lambda: top_k(copies, copies, 1, memory_budget=budget)) <= budget


@pytest.mark.parametrize("make", [noise, lattice])
def test_working_memory_stays_within_the_budget_when_all_neighbors_have_duplicates(
    make: Callable[[int, int, int], Floats],
) -> None:
    queries, references = noise(500, 16, seed=6), np.repeat(make(500, 16, 7), 20, axis=0)
    budget = 16 << 20

    assert _peak(lambda: top_k(queries, references, 200, memory_budget=budget)) <= budget


# ---- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1.0001, -1.0001, float("nan"), float("inf")])
def test_threshold_outside_cosine_range_is_rejected(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"is not a cosine; it must lie in \[-1, 1\]"):
        threshold_join(noise(1, 2, 0), noise(1, 2, 1), threshold)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_rejected(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; it must be at least 1"):
        top_k(noise(1, 2, 0), noise(1, 2, 1), k)


def test_threshold_join_rejects_rows_of_different_widths() -> None:
    with pytest.raises(ValueError, match="left has rows of 3 numbers, right of 4"):
        threshold_join(noise(2, 3, 0), noise(2, 4, 0), 0.5)
    with pytest.raises(ValueError, match="queries has rows of 3 numbers, references of 4"):
        top_k(noise(2, 3, 0), noise(0, 4, 0), 1)


@pytest.mark.parametrize("value", [0.0, np.nan, 2.0])
def test_invalid_row_is_named_with_its_argument(value: float) -> None:
    good, bad = noise(4, 3, 0), noise(4, 3, 0)
    bad[2] *= value

    with pytest.raises(ValueError, match="left row 2 "):
        threshold_join(bad, good, 0.5)
    with pytest.raises(ValueError, match="right row 2 "):
        threshold_join(good, bad, 0.5)
    with pytest.raises(ValueError, match="queries row 2 "):
        top_k(bad, good, 1)
    with pytest.raises(ValueError, match="references row 2 "):
        top_k(good, bad, 1)


def _assert_is_the_join(
    left: Floats, right: Floats, threshold: float, i: Indices, j: Indices, similarity: Doubles
) -> None:
    assert i.dtype == j.dtype == np.int64
    assert similarity.dtype == np.float64
    scores = cosines(left, right)
    required, allowed = scores >= threshold + 1e-15, scores >= threshold - 1e-15
    is_pair = np.zeros(scores.shape, dtype=bool)
    is_pair[i, j] = True
    assert is_pair.sum() == len(i)
    assert not (required & ~is_pair).any()
    assert not (is_pair & ~allowed).any()
    assert (similarity >= threshold).all()
    np.testing.assert_allclose(similarity, scores[i, j], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(similarity, pair_cosines(left, right, i, j))
    np.testing.assert_array_equal(np.lexsort((j, -similarity, i)), np.arange(len(i)))


def _assert_are_nearest(
    queries: Floats, references: Floats, k: int, index: Indices, similarity: Doubles
) -> None:
    assert index.dtype == np.int64
    assert index.shape == similarity.shape == (len(queries), k)
    i, j = np.indices((len(queries), len(references)))
    scores = pair_cosines(queries, references, i.ravel(), j.ravel()).reshape(i.shape)
    np.testing.assert_allclose(scores, cosines(queries, references), rtol=0, atol=1e-15)
    count = min(k, len(references))
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(index[:, :count], nearest)
    np.testing.assert_array_equal(
        similarity[:, :count], np.take_along_axis(scores, nearest, axis=1)
    )
    assert (index[:, count:] == -1).all()
    assert np.isnan(similarity[:, count:]).all()


def _assert_same_bits(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> None:
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def _peak(work: Callable[[], object]) -> int:
    """The peak memory of a call, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
