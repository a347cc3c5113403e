from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import threshold_join, top_k, unique_rows
from imgsim_assets.similarity.unique_rows import find_unique_in_blocks, find_unique_rows
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.vectors import Floats, families, noise, unit


def _copied(seed: int, count: int, kinds: int, dim: int = 8) -> Floats:
    """Rows drawn from `kinds` different ones, so that most are copies."""
    rng = np.random.default_rng(seed)
    return families(kinds, dim, seed)[rng.integers(0, kinds, count)]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    kinds=st.integers(1, 60),
    dim=st.sampled_from([8, 40]),
    alike=st.sampled_from([0, 7, 39]),
    few=st.sampled_from([1, 4096]),
)
def test_rows_of_the_same_bytes_are_grouped(
    seed: int, count: int, kinds: int, dim: int, alike: int, few: int
) -> None:
    rows = _copied(seed, count, kinds, dim)
    rows[:, :alike] = 0.0  # many rows begin with the same numbers
    expected: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        expected.setdefault(row.tobytes(), []).append(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unique_rows, "_ROWS_COMPARED", few)
        unique = find_unique_rows(rows)

    groups = [
        unique.rows[a:b].tolist() for a, b in zip(unique.start, unique.start[1:], strict=False)
    ]
    assert groups == list(expected.values())
    assert unique.first.tolist() == [group[0] for group in groups]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 60), kinds=st.integers(1, 60))
def test_groups_do_not_depend_on_the_blocks(seed: int, count: int, kinds: int) -> None:
    rows = _copied(seed, count, kinds)

    with small_blocks(7):
        unique = find_unique_in_blocks(VectorBlocks.of(rows))

    for of_blocks, expected in zip(unique, find_unique_rows(rows), strict=True):
        np.testing.assert_array_equal(of_blocks, expected)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.integers(1, 60),
    mask=st.lists(st.booleans(), max_size=60),
    most=st.integers(1, 4),
)
def test_where_and_at_most_select_within_groups(
    seed: int, kinds: int, mask: list[bool], most: int
) -> None:
    rows, chosen = _copied(seed, len(mask), kinds), np.array(mask, dtype=bool)
    numbers = np.flatnonzero(chosen)
    selected = find_unique_rows(rows[chosen])

    unique = find_unique_rows(rows).where(chosen)
    fewer = unique.at_most(most)

    assert unique.first.tolist() == numbers[selected.first].tolist()
    assert unique.rows.tolist() == numbers[selected.rows].tolist()
    assert unique.start.tolist() == selected.start.tolist()
    groups = np.split(unique.rows, unique.start[1:-1]) if len(numbers) else []
    assert fewer.rows.tolist() == [row for group in groups for row in group[:most].tolist()]
    assert fewer.counts.tolist() == [min(most, len(group)) for group in groups]


def test_rows_with_colliding_hashes_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unique_rows, "_hashes", lambda rows: np.zeros(len(rows), dtype=np.int64))
    rows = np.repeat(noise(3, 5, 0), 2, axis=0)

    i, j, _ = threshold_join(rows, rows, 1.0)

    assert set(zip(i.tolist(), j.tolist(), strict=True)) == {
        (a, b) for a in range(6) for b in range(6) if a // 2 == b // 2
    }


def test_different_rows_rarely_share_a_hash() -> None:
    assert len(np.unique(unique_rows._hashes(noise(20_000, 16, 1)))) > 19_990
    signs = unit(np.sign(noise(3_000, 64, 2)))
    assert len(np.unique(unique_rows._hashes(signs))) > 2_990


def test_zero_and_minus_zero_are_unique_rows_of_cosine_one() -> None:
    rows = np.array([[1, 0], [1, -0.0]], np.float32)

    i, j, similarity = threshold_join(rows, rows, 1.0)

    assert len(find_unique_rows(rows).first) == 2
    assert (i.tolist(), j.tolist(), similarity.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1], [1.0] * 4)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 30), threshold=st.floats(-1, 1))
def test_results_with_duplicates_equal_those_of_single_rows(
    seed: int, k: int, threshold: float
) -> None:
    left, right = _copied(seed, 40, 6), _copied(seed, 50, 9)
    index, similarity = top_k(left, right, k)
    i, j, joined = threshold_join(left, right, threshold)

    for row in range(len(left)):
        # One row against one reference at a time, so nothing is grouped.
        scores = np.array(
            [threshold_join(left[[row]], right[[at]], -1.0)[2][0] for at in range(50)]
        )
        order = np.argsort(-scores, kind="stable")
        length = min(k, 50)
        assert index[row, :length].tolist() == order[:length].tolist()
        np.testing.assert_array_equal(similarity[row, :length], scores[order[:length]])
        above = order[scores[order] >= threshold]
        assert j[i == row].tolist() == above.tolist()
        np.testing.assert_array_equal(joined[i == row], scores[above])
