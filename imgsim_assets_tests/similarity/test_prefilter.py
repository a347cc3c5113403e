from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgsim_assets.similarity import join, knn, threshold_join, tiles, top_k
from imgsim_assets.similarity import prefilter as prefilter_module
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_knn, choose_for_threshold
from imgsim_assets.similarity.projection import Projection, fit
from imgsim_assets_tests.support.vectors import (
    Floats,
    cosines,
    families,
    lattice,
    nearly_equal,
    noise,
    unit,
)

MAKERS = st.sampled_from([noise, families, lattice, nearly_equal])


def _pair(left: Floats, right: Floats) -> InputPair:
    return InputPair.of(JoinInput.of(left, "left"), JoinInput.of(right, "right"))


def _fit(pair: InputPair, width: int, length: float = 1.001) -> Projection:
    return fit(np.concatenate([pair.left.unit.rows, pair.right.unit.rows]), width, length)


def _scores(prefilter: Prefilter, pair: InputPair) -> Floats:
    a, b = (
        prefilter.prepare(side.unit.rows, side.unit.squares) for side in (pair.left, pair.right)
    )
    return a @ b.T


@settings(max_examples=100, deadline=None)
@example(make=families, dim=1280, share=0.3, seed=0)
@example(make=nearly_equal, dim=1280, share=None, seed=0)
@given(
    make=MAKERS,
    dim=st.sampled_from([16, 64, 300]),
    share=st.sampled_from([None, 0.05, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_prefilter_scores_plus_error_bound_the_cosines(
    make: object, dim: int, share: float | None, seed: int
) -> None:
    left, right = make(20, dim, seed), make(30, dim, seed + 1)  # type: ignore[operator]
    pair = _pair(left, right)
    projection = _fit(pair, max(1, int(share * dim))) if share else None
    prefilter = Prefilter.of(projection, pair)

    scores = _scores(prefilter, pair).astype(np.float64)

    assert (scores + prefilter.error >= cosines(left, right)).all()


def test_prefilter_of_whole_rows_is_within_its_error() -> None:
    left, right = families(50, 512, 1), families(60, 512, 1)
    prefilter = Prefilter.of(None, _pair(left, right))

    off = np.abs(_scores(prefilter, _pair(left, right)) - cosines(left, right))

    assert off.max() <= prefilter.error < 1e-4


def test_prefilter_bounds_rows_that_are_not_exactly_of_length_one() -> None:
    rows = families(40, 96, 2)
    rows[::2] *= np.float32(1.0009)
    rows[1::2] *= np.float32(0.9991)
    pair = _pair(rows, rows)
    for width in (8, 48, 96):
        prefilter = Prefilter.of(_fit(pair, width, 1 + pair.left.unit.deviation), pair)

        assert (_scores(prefilter, pair) + prefilter.error >= cosines(rows, rows)).all()


def test_prefilter_bounds_hold_for_a_basis_that_is_not_orthonormal() -> None:
    rows = families(40, 96, 3)
    pair = _pair(rows, rows)
    skewed = _fit(pair, 24).basis * np.float32(1.01)

    prefilter = Prefilter.of(Projection(skewed, 1.001), pair)

    assert prefilter.error > 0.01
    assert (_scores(prefilter, pair) + prefilter.error >= cosines(rows, rows)).all()


def test_wider_projections_have_fewer_candidates() -> None:
    rng = np.random.default_rng(4)
    scales = 1 / np.arange(1, 129) ** 0.5
    rows = unit(rng.standard_normal((400, 128)) * scales)
    pair = _pair(rows, rows)
    widest = _fit(pair, 96)

    prefilters = [Prefilter.of(widest.leading(width), pair) for width in (4, 16, 64, 96)]
    counts = [
        int((_scores(prefilter, pair) >= 0.9 - prefilter.error).sum()) for prefilter in prefilters
    ]

    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10 * counts[-1] >= 10 * 400


@pytest.fixture
def project_small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter_module, "_MIN_PROJECTED_WORK", 0)
    monkeypatch.setattr(prefilter_module, "_CANDIDATE_COST", 0)
    monkeypatch.setattr(prefilter_module, "_DIMENSION_COST", 1e-3)


@pytest.mark.parametrize("make", [noise, families, nearly_equal])
@pytest.mark.usefixtures("project_small_jobs")
def test_threshold_join_is_the_same_for_every_prefilter(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = make(300, 128, 5), make(200, 128, 5)  # type: ignore[operator]
    for threshold in np.quantile(cosines(left, right), [0.5, 0.99, 0.999]).tolist():
        assert choose_for_threshold(_pair(left, right), threshold).projection is not None
        pairs = threshold_join(left, right, threshold, memory_budget=100_000)
        with monkeypatch.context() as patched:
            patched.setattr(
                join, "choose_for_threshold", lambda inputs, _: Prefilter.of(None, inputs)
            )
            expected = threshold_join(left, right, threshold)

        for first, second in zip(pairs, expected, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", [noise, families, nearly_equal])
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.usefixtures("project_small_jobs")
def test_top_k_is_the_same_for_every_prefilter(
    make: object, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = make(300, 128, 5), make(200, 128, 5)  # type: ignore[operator]
    if copied:
        left, right = np.concatenate([left, left[:40]]), np.repeat(right, 3, axis=0)[::-1]
    minimums = np.random.default_rng(0).uniform(-1, 0.5, len(left))
    for k, minimum in ((1, -1.0), (7, minimums), (50, -1.0)):
        pair = _pair(left, right)
        chosen = choose_for_knn(pair, k, np.full(len(pair.left), -1.0))
        assert chosen.projection is not None
        neighbors = top_k(left, right, k, min_similarity=minimum, memory_budget=100_000)
        with monkeypatch.context() as patched:
            patched.setattr(knn, "choose_for_knn", lambda inputs, *_: Prefilter.of(None, inputs))
            expected = top_k(left, right, k, min_similarity=minimum)

        for first, second in zip(neighbors, expected, strict=True):
            np.testing.assert_array_equal(first, second)


def test_whole_rows_are_chosen_when_a_projection_filters_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefilter_module, "_MIN_PROJECTED_WORK", 0)
    pair = _pair(noise(200, 128, 7), noise(200, 128, 8))

    assert choose_for_threshold(pair, 0.2).projection is None


def test_whole_rows_are_chosen_for_small_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = _pair(families(300, 128, 5), families(200, 128, 5))
    job = len(pair.left) * len(pair.right) * 128
    no_minimum = np.full(len(pair.left), -1.0)
    monkeypatch.setattr(prefilter_module, "_CANDIDATE_COST", 0)
    monkeypatch.setattr(prefilter_module, "_DIMENSION_COST", 1e-3)

    for worth, join_projects, search_projects in (
        (job // 3, True, True),
        (job, True, False),
        (job + 1, False, False),
    ):
        monkeypatch.setattr(prefilter_module, "_MIN_PROJECTED_WORK", worth)
        assert (choose_for_threshold(pair, 0.9).projection is not None) is join_projects
        assert (choose_for_knn(pair, 7, no_minimum).projection is not None) is search_projects


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_row_blocks_cover_every_pair_once_for_any_budget(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "worker_count", lambda: workers)
    monkeypatch.setattr(tiles, "_MIN_ROWS", 8)
    pair = _pair(noise(70, 32, 1), noise(90, 32, 2))

    def seen(block: tiles.RowBlock) -> NDArray[np.int64]:
        counted = np.zeros((70, 90), np.int64)
        for tile in block.tiles:
            rows, columns = tile.shape
            assert block.rows == slice(tile.row, tile.row + rows)
            counted[tile.row : tile.row + rows, tile.column : tile.column + columns] += 1
        return counted

    for budget in (1, 3_000, 1 << 20):
        for prefilter in (Prefilter.of(None, pair), Prefilter.of(_fit(pair, 8), pair)):
            counts = list(tiles.map_row_blocks(pair, prefilter, budget, seen))
            assert (np.sum(counts, axis=0) == 1).all()


def test_products_restore_the_faiss_thread_count() -> None:
    import faiss

    pair = _pair(noise(8, 32, 1), noise(8, 32, 2))
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        pair.products(np.arange(8), np.arange(8))
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_prefilter_for_knn_is_not_too_narrow_with_many_copies() -> None:
    # The highest cutoff would let almost no candidate pass; most of the time it is not reached.
    random = np.random.default_rng(0)
    images = random.normal(size=(1000, 64)) @ random.normal(size=(64, 512)) / 8
    images += random.normal(size=images.shape) / 2
    drawn = images[random.integers(0, len(images), 20_000)]
    side = JoinInput.of(unit(drawn + random.normal(size=drawn.shape) / 10), "rows")

    prefilter = choose_for_knn(InputPair.of(side, side), 5, np.full(len(side), -1.0))

    assert prefilter.projection is not None
    assert prefilter.projection.width - 1 > 32
