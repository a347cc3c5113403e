from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.cosine import (
    distances,
    pair_cosines,
    product_error,
    squared_norms,
    unit_rows,
)
from imgsim_assets_tests.support.vectors import (
    Doubles,
    Floats,
    cosines,
    families,
    lattice,
    nearly_equal,
    noise,
)

DIMS = [1, 2, 3, 7, 64, 772, 1280, 2048]


@pytest.mark.parametrize("dim", DIMS)
def test_cosines_equal_extended_precision(dim: int) -> None:
    left, right = noise(9, dim, seed=1), noise(11, dim, seed=2)

    np.testing.assert_allclose(_all(left, right), cosines(left, right), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dim", DIMS)
def test_identical_rows_have_cosine_one_and_opposite_rows_minus_one(dim: int) -> None:
    rows = noise(300, dim, seed=3)
    same = np.arange(300)

    assert (pair_cosines(rows, rows, same, same) == 1.0).all()
    assert (pair_cosines(rows, -rows, same, same) == -1.0).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cosines_are_bitwise_equal_in_any_batch_order_and_direction(data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 300), "dim")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    left, right = families(12, dim, seed), families(9, dim, seed + 1)
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), min_size=1, max_size=80)
    )
    i, j = (np.array(side) for side in zip(*pairs, strict=True))

    together = pair_cosines(left, right, i, j)

    one_by_one = [
        pair_cosines(left, right, i[at : at + 1], j[at : at + 1])[0] for at in range(len(i))
    ]
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(pair_cosines(right, left, j, i), together)
    assert (np.abs(together) <= 1).all()


def test_cosines_are_bitwise_equal_across_slices() -> None:
    rows = noise(40, 2048, seed=4)
    i, j = np.repeat(np.arange(40), 40), np.tile(np.arange(40), 40)

    together = pair_cosines(rows, rows, i, j)

    halves = [pair_cosines(rows, rows, i[at::2], j[at::2]) for at in (0, 1)]
    np.testing.assert_array_equal(together[0::2], halves[0])
    np.testing.assert_array_equal(together[1::2], halves[1])


def test_cosines_of_exactly_representable_products_are_exact() -> None:
    rows = lattice(40, 16, seed=9)

    scores = _all(rows, rows)

    np.testing.assert_array_equal(scores, rows.astype(np.float64) @ rows.T.astype(np.float64))


def test_cosines_do_not_exceed_one() -> None:
    rows = nearly_equal(60, 512, seed=1)

    assert _all(rows, rows).max() == 1.0


def test_no_pairs_give_no_cosines() -> None:
    none = np.empty(0, np.int64)

    assert pair_cosines(noise(3, 5, 0), noise(2, 5, 1), none, none).shape == (0,)


@given(st.floats(-1, 1))
def test_distances_equal_euclidean_distances_of_unit_vectors(cosine: float) -> None:
    (distance,) = distances(np.array([cosine]))

    assert distance == pytest.approx(math.dist((1, 0), (cosine, math.sqrt(1 - cosine**2))))
    assert 0 <= distance <= 2


def test_identical_vectors_have_distance_zero() -> None:
    assert distances(np.array([1.0]))[0] == 0.0


@pytest.mark.parametrize("dim", [1, 5, 1280])
def test_squared_norms_equal_extended_precision(dim: int) -> None:
    rows = np.random.default_rng(5).standard_normal((700, dim)).astype(np.float32) * 3

    expected = (rows.astype(np.longdouble) ** 2).sum(axis=1).astype(np.float64)

    np.testing.assert_allclose(squared_norms(rows), expected, rtol=1e-15)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("stretch", [0.0, 5e-4])
def test_product_error_bounds_float32_products(dim: int, stretch: float) -> None:
    rng = np.random.default_rng(dim)
    factor = (1 + stretch * rng.uniform(-1, 1, (60, 1))).astype(np.float32)
    left, _, left_off = unit_rows(nearly_equal(60, dim, seed=6) * factor, "left")
    right, _, right_off = unit_rows(families(60, dim, seed=7) * factor[::-1], "right")
    bound = product_error(dim, max(left_off, right_off))

    for other in (left, right):
        off = np.abs((left @ other.T).astype(np.float64) - cosines(left, other)).max()
        assert off <= bound
    assert bound <= 3 * stretch + (dim + 4) * 2**-23


# ---- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_unit_rows_are_contiguous_for_any_input_layout(
    order: Literal["C", "F"], kind: type[np.floating]
) -> None:
    given_rows = noise(5, 7, seed=8).astype(kind, order=order)

    rows, squares, deviation = unit_rows(given_rows, "left")

    assert rows.flags.c_contiguous
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, given_rows)
    np.testing.assert_array_equal(squares, squared_norms(rows))
    assert 0 <= deviation < 1e-6


def test_deviation_is_the_greatest_difference_from_length_one() -> None:
    rows = noise(5, 7, seed=8)
    rows[3] *= np.float32(1.0004)

    assert unit_rows(rows, "left").deviation == pytest.approx(0.0004, rel=1e-2)
    assert unit_rows(np.empty((0, 7), np.float32), "left").deviation == 0


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.nan, "left row 4 is not finite"),
        (np.inf, "left row 4 is not finite"),
        (0.0, "left row 4 is of length 0"),
        (0.998, r"left row 4 is of length 0\.998"),
        (1.0011, r"left row 4 is of length 1\.0011"),
        (255.0, "left row 4 is of length 255"),
    ],
)
def test_row_that_is_not_a_unit_vector_is_named_with_its_argument(
    value: float, complaint: str
) -> None:
    rows = np.zeros((6, 3), np.float32)
    rows[:, 1] = 1
    rows[4, 1] = value

    with pytest.raises(ValueError, match=rf"{complaint}; .*\(1 of 6 rows are not\)"):
        unit_rows(rows, "left")


def test_array_that_is_not_two_dimensional_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"right must be a 2-D array .*not 1-D"):
        unit_rows(np.ones(3, np.float32), "right")


def _all(left: Floats, right: Floats) -> Doubles:
    i, j = np.indices((len(left), len(right)))
    flat = pair_cosines(left, right, i.ravel(), j.ravel())
    return flat.reshape(len(left), len(right))
