from __future__ import annotations

import threading
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.compute.device import use_device
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity import (
    cosine_matrix,
    device_tiles,
    open_prepared,
    prepare_rows,
    radius_join,
    save_prepared,
    threshold_join,
    tiles,
    top_k,
)
from imgsim_assets.similarity.cosine import Doubles, Floats
from imgsim_assets.similarity.device_rows import scores
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.threads import use_threads
from imgsim_assets_tests.support.torch_joins import DEVICES, NEEDS_GPU, torch_joins
from imgsim_assets_tests.support.vectors import (
    constant,
    cosines,
    families,
    lattice,
    nearly_equal,
    noise,
    rounded_down,
)

DTYPES = [torch.bfloat16, torch.float32]
BUDGETS = st.sampled_from([1, 5_000, 100_000, 256 << 20])
Maker = Callable[[int, int, int], Floats]


MAKERS: Sequence[Maker] = (noise, families, lattice, nearly_equal, constant, rounded_down)


@st.composite
def sides(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Two arrays of rows, each of one kind, some rows copies of others."""
    makers = [draw(st.sampled_from(MAKERS)) for _ in range(2)]
    dim = draw(st.sampled_from([4, 16, 64]) if lattice in makers else st.integers(1, 130))
    seed = draw(st.integers(0, 2**32 - 1))
    left, right = (make(draw(st.integers(1, 40)), dim, seed) for make in makers)
    for _ in range(draw(st.integers(0, 4))):
        right[draw(st.integers(0, len(right) - 1))] = left[draw(st.integers(0, len(left) - 1))]
    for rows in (left, right):
        rows[draw(st.integers(0, len(rows) - 1))] = rows[0]
    return left[draw(st.integers(0, 1)) :], right[draw(st.integers(0, 1)) :]


def _assert_same_bits(first: Sequence[object], second: Sequence[object]) -> None:
    for one, other in zip(first, second, strict=True):
        assert isinstance(one, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(
    rows=sides(),
    threshold=st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.floats(-1, 1), st.none()),
    budget=BUDGETS,
    dtype=st.sampled_from(DTYPES),
)
def test_threshold_join_of_torch_equals_that_of_numpy(
    device: str,
    rows: tuple[Floats, Floats],
    threshold: float | None,
    budget: int,
    dtype: torch.dtype,
) -> None:
    if threshold is None:
        # A pair that ties with the threshold.
        exact = cosine_matrix(*rows)
        threshold = float(exact.ravel()[exact.size // 2]) if exact.size else 0.5
    expected = threshold_join(*rows, threshold)

    with torch_joins(device, dtype):
        pairs = threshold_join(*rows, threshold, memory_budget=budget)

    _assert_same_bits(pairs, expected)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(
    rows=sides(),
    k=st.integers(1, 50),
    minimum=st.one_of(st.just(-np.inf), st.floats(-1, 1)),
    budget=BUDGETS,
    dtype=st.sampled_from(DTYPES),
)
def test_top_k_of_torch_equals_that_of_numpy(
    device: str,
    rows: tuple[Floats, Floats],
    k: int,
    minimum: float,
    budget: int,
    dtype: torch.dtype,
) -> None:
    queries, references = rows
    minimums = np.linspace(minimum, max(minimum, 1.0), len(queries)) if minimum > -1 else minimum
    expected = top_k(queries, references, k, min_similarity=minimums)

    with torch_joins(device, dtype):
        nearest = top_k(queries, references, k, min_similarity=minimums, memory_budget=budget)

    _assert_same_bits(nearest, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "dim", [3, *(pytest.param(dim, marks=pytest.mark.slow) for dim in (1, 127, 128, 772, 2048))]
)
def test_joins_of_torch_are_exact_for_every_width(
    device: str, dtype: torch.dtype, dim: int
) -> None:
    for make in MAKERS:
        left, right = make(23, dim, 1), make(31, dim, 1)
        exact = cosine_matrix(left, right)
        for threshold in [*np.quantile(exact, [0.1, 0.5, 0.9], method="nearest").tolist(), 1.0]:
            radius = float(np.sqrt(2 - 2 * threshold))
            expected = threshold_join(left, right, threshold), radius_join(left, right, radius)
            with torch_joins(device, dtype):
                found = threshold_join(left, right, threshold), radius_join(left, right, radius)
            for one, other in zip(found, expected, strict=True):
                _assert_same_bits(one, other)
        expected_nearest = top_k(left, right, 5)
        with torch_joins(device, dtype):
            _assert_same_bits(top_k(left, right, 5), expected_nearest)


@pytest.mark.parametrize("device", DEVICES)
def test_joins_of_torch_over_many_tiles_equal_those_of_numpy(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_MIN_ROWS": 8, "_MAX_ROWS": 64, "_MAX_COLUMNS": 64}.items():
        monkeypatch.setattr(device_tiles, name, value)
    left, right = (JoinInput.of(families(count, 32, 4), "rows") for count in (300, 450))
    inputs = InputPair.of(left, right)
    expected = threshold_join(left, right, 0.7), top_k(left, right, 7)

    with torch_joins(device):
        found = threshold_join(left, right, 0.7), top_k(left, right, 7)
        tiles_of_blocks = list(
            device_tiles.map_device_blocks(
                inputs, torch.device(device), 256 << 20, lambda block: len(list(block.tiles))
            )
        )

    for one, other in zip(found, expected, strict=True):
        _assert_same_bits(one, other)
    assert len(tiles_of_blocks) > 4
    assert min(tiles_of_blocks) > 4


@pytest.mark.parametrize("budget", [1, 3_000, 1 << 20])
def test_device_tiles_cover_every_pair_once(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_tiles, "_MIN_ROWS", 8)
    inputs = InputPair.of(
        JoinInput.of(noise(30, 32, 1), "left"), JoinInput.of(noise(40, 32, 2), "right")
    )

    def seen(block: tiles.RowBlock) -> Doubles:
        counted = np.zeros((30, 40))
        for tile in block.tiles:
            rows, columns = tile.shape
            assert block.rows == slice(tile.row, tile.row + rows)
            counted[tile.row : tile.row + rows, tile.column : tile.column + columns] += 1
        return counted

    counts = list(device_tiles.map_device_blocks(inputs, torch.device("cpu"), budget, seen))

    assert (np.sum(counts, axis=0) == 1).all()


def test_one_thread_decides_a_block_while_the_device_computes_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_tiles, "_MIN_ROWS", 8)
    rows = JoinInput.of(noise(32, 16, 1), "rows")
    both_at_work = threading.Barrier(2, timeout=60)

    def wait_for_another(block: tiles.RowBlock) -> int:
        both_at_work.wait()
        return len(list(block.tiles))

    with use_threads(1):
        done = list(
            device_tiles.map_device_blocks(
                InputPair.of(rows, rows), torch.device("cpu"), 256 << 20, wait_for_another
            )
        )

    assert done == [1, 1, 1, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_pairs_that_rounding_moves_below_the_threshold_are_found(device: str) -> None:
    left, right = rounded_down(50, 576, 1), rounded_down(60, 576, 1)
    exact = cosines(left, right)
    threshold = float(np.quantile(exact, 0.5, method="nearest"))
    rounded = [torch.from_numpy(rows).bfloat16().double() for rows in (left, right)]
    lost = (exact >= threshold) & ((rounded[0] @ rounded[1].T).numpy() < threshold)
    assert lost.sum() > 500

    with torch_joins(device):
        i, j, _ = threshold_join(left, right, threshold)

    np.testing.assert_array_equal(np.argwhere(exact >= threshold), np.unique([i, j], axis=1).T)


def test_prepared_rows_of_a_file_are_joined_by_torch_without_warnings(tmp_path: Path) -> None:
    rows = families(60, 16, 3)
    save_prepared(prepare_rows(rows), tmp_path)
    expected = threshold_join(rows, rows, 0.8)

    with warnings.catch_warnings(), torch_joins("cpu"):
        warnings.simplefilter("error")
        prepared = open_prepared(tmp_path)
        pairs = threshold_join(prepared, prepared, 0.8)

    _assert_same_bits(pairs, expected)


def test_a_device_that_multiplies_less_exactly_than_proven_stops_the_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = families(60, 16, 3)
    monkeypatch.setattr(device_tiles, "scores", lambda *parts: scores(*parts) * 1.05)

    with torch_joins("cpu"), pytest.raises(RuntimeError, match=r"the proven bound is 0\.0"):
        threshold_join(rows, rows, 0.5)


def _run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the device memory for three tiles only."""
    memory = iter(range(3))

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if next(memory, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores(left, right)

    monkeypatch.setattr(device_tiles, "scores", product)
    monkeypatch.setattr(device_tiles, "_MIN_ROWS", 8)


def test_declared_gpu_without_memory_for_a_join_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = families(60, 16, 3)
    _run_out_of_memory(monkeypatch)

    with torch_joins("cpu"), pytest.raises(SettingsError, match="cpu has too little free memory"):
        threshold_join(rows, rows, 0.5, device="cuda")


@pytest.mark.parametrize(
    "join", [lambda rows: threshold_join(rows, rows, 0.5), lambda rows: top_k(rows, rows, 7)]
)
def test_auto_joins_on_the_cpu_where_the_gpu_has_no_memory(
    join: Callable[[Floats], Sequence[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = families(60, 16, 3)
    expected = join(rows)
    _run_out_of_memory(monkeypatch)

    with torch_joins("cpu"), use_device("auto") as used:
        found = join(rows)

    _assert_same_bits(found, expected)
    assert str(used) == "cpu, torch cpu"


def test_torch_holds_no_second_copy_of_all_rows_in_this_machines_memory() -> None:
    rows = noise(2000, 256, 1)
    prepared = prepare_rows(rows)
    with torch_joins("cpu"):
        threshold_join(prepared, prepared, 0.9, memory_budget=1 << 22)
        tracemalloc.start()
        try:
            threshold_join(prepared, prepared, 0.9, memory_budget=1 << 22)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < rows.nbytes // 2


@NEEDS_GPU
@pytest.mark.parametrize("width", [576, 1280])
def test_large_joins_on_a_gpu_equal_those_of_numpy(width: int) -> None:
    left, right = families(20_000, width, 1), families(30_000, width, 1)
    pairs = threshold_join(left, right, 0.6, device="cuda")
    nearest = top_k(left, right, 10, device="cuda")

    _assert_same_bits(pairs, threshold_join(left, right, 0.6, device="cpu"))
    _assert_same_bits(nearest, top_k(left, right, 10, device="cpu"))
    assert len(pairs[0]) > 20_000
