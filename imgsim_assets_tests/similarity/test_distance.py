from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import cosine_matrix, radius_join, threshold_join
from imgsim_assets_tests.support.vectors import cosines, families, lattice, noise


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.one_of(st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.floats(0, 2.1)),
)
def test_a_radius_holds_the_pairs_at_most_that_far_apart(seed: int, radius: float) -> None:
    left, right = families(20, 12, seed), families(25, 12, seed)

    i, j, apart = radius_join(left, right, radius)

    expected = np.sqrt(np.maximum(0, 2 - 2 * cosine_matrix(left, right)))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(
        zip(*(part.tolist() for part in np.nonzero(expected <= radius)), strict=True)
    )
    np.testing.assert_array_equal(apart, expected[i, j])
    np.testing.assert_array_equal(np.lexsort((j, apart, i)), np.arange(len(i)))


def test_the_radius_itself_is_inside() -> None:
    rows = lattice(40, 4, seed=1)
    apart = radius_join(rows, rows, 2.0)[2]

    for radius in np.unique(apart):
        assert len(radius_join(rows, rows, float(radius))[0]) == int((apart <= radius).sum())
        below = float(np.nextafter(radius, -1))
        if below >= 0:
            assert len(radius_join(rows, rows, below)[0]) == int((apart < radius).sum())


@pytest.mark.parametrize("radius", [-0.1, float("nan")])
def test_what_is_no_distance_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="is no distance; it must be at least 0"):
        radius_join(noise(1, 2, 0), noise(1, 2, 1), radius)


def test_the_matrix_holds_every_cosine_with_the_bits_of_the_join() -> None:
    left, right = families(30, 48, 3), families(20, 48, 3)

    matrix = cosine_matrix(left, right)

    np.testing.assert_allclose(matrix, cosines(left, right), rtol=0, atol=1e-15)
    i, j, similarity = threshold_join(left, right, -1.0)
    np.testing.assert_array_equal(matrix[i, j], similarity)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (2, 0)])
def test_a_matrix_may_be_empty(n: int, m: int) -> None:
    assert cosine_matrix(noise(n, 5, 0), noise(m, 5, 1)).shape == (n, m)


def test_rows_of_different_widths_have_no_matrix() -> None:
    with pytest.raises(ValueError, match="left has rows of 3 numbers, right of 4"):
        cosine_matrix(noise(2, 3, 0), noise(2, 4, 0))
