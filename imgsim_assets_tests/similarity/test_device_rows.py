"""The bound of a device's products: measured, and for tensor cores as they were found to add."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.cosine import Doubles, Floats
from imgsim_assets.similarity.device_rows import (
    DeviceRows,
    fast_dtype,
    rounding_error,
    score_error,
    scores,
)
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets_tests.support.torch_joins import DEVICES
from imgsim_assets_tests.support.vectors import cosines, families, nearly_equal, noise, rounded_down

WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 576, 1280]))
# Significant bits of the number formats.
BF16, TF32, FP32 = 8, 11, 24


def _rounded(rows: Floats, bits: int) -> Floats:
    """The rows rounded to so many significant bits, ties to even."""
    fraction, exponent = np.frexp(rows.astype(np.float64))
    rounded: Floats = np.ldexp(np.round(fraction * 2.0**bits) / 2.0**bits, exponent).astype(
        np.float32
    )
    return rounded


def _device_rows(rows: Floats, bits: int, device: str = "cpu") -> DeviceRows:
    whole = torch.from_numpy(rows).to(device)
    rounded = torch.from_numpy(_rounded(rows, bits)).to(device)
    side = JoinInput.of(rows, "rows")
    return DeviceRows(whole, rounded, rounding_error(whole, rounded), 1 + side.unit.deviation)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Floats, Floats, int]:
    """Two arrays of rows, and the bits of a number format."""
    bits = draw(st.sampled_from([BF16, TF32, FP32]))
    dim, seed = draw(WIDTHS), draw(st.integers(0, 2**32 - 1))
    kinds: list[Callable[[int, int, int], Floats]] = [noise, families, nearly_equal]
    kinds.append(partial(rounded_down, bits=bits))
    left, right = (draw(st.sampled_from(kinds))(8, dim, seed + side) for side in range(2))
    if draw(st.booleans()):
        right = left.copy()
    return left, right, bits


@settings(max_examples=60, deadline=None)
@given(rows=pairs())
def test_products_of_rounded_rows_are_within_the_bound(rows: tuple[Floats, Floats, int]) -> None:
    left, right = (_device_rows(side, rows[2]) for side in rows[:2])

    products = scores(left.rounded, right.rounded).numpy().astype(np.float64)

    assert np.abs(products - cosines(*rows[:2])).max() <= score_error(left, right)


@settings(max_examples=30, deadline=None)
@given(rows=pairs(), group=st.sampled_from([1, 4, 8, 16]))
def test_sums_of_tensor_cores_are_within_the_bound(
    rows: tuple[Floats, Floats, int], group: int
) -> None:
    left, right = (_device_rows(side, rows[2]) for side in rows[:2])

    products = _tensor_core_products(left.rounded.numpy(), right.rounded.numpy(), group)

    assert np.abs(products - cosines(*rows[:2])).max() <= score_error(left, right)


def _tensor_core_products(left: Floats, right: Floats, group: int) -> Doubles:
    """Products whose terms are aligned with the largest of each group and cut to 24 bits."""
    terms = left.astype(np.float64)[:, None, :] * right.astype(np.float64)[None, :, :]
    total = np.zeros(terms.shape[:2])
    for start in range(0, terms.shape[2], group):
        added = np.concatenate([total[..., None], terms[..., start : start + group]], axis=2)
        total = _cut(added, np.abs(added).max(axis=2, keepdims=True)).sum(axis=2)
        total = _cut(total, np.abs(total))
    return total


def _cut(values: Doubles, largest: Doubles) -> Doubles:
    """The values without what is below the 24th bit of the largest."""
    unit_of_last_bit = np.exp2(np.frexp(largest)[1] - 24.0)
    cut: Doubles = np.trunc(values / unit_of_last_bit) * unit_of_last_bit
    return cut


@pytest.mark.parametrize(("bits", "most"), [(BF16, 2.0**-8), (TF32, 2.0**-11), (FP32, 0.0)])
def test_rounding_error_is_measured_and_at_most_half_a_unit(bits: int, most: float) -> None:
    for make in (noise, families):
        rows = make(40, 576, 1)
        error = rounding_error(torch.from_numpy(rows), torch.from_numpy(_rounded(rows, bits)))

        differences = np.linalg.norm(rows.astype(np.float64) - _rounded(rows, bits), axis=1)
        assert error >= differences.max()
        assert error <= most * 0.6
    worst = rounded_down(10, 256, 1, bits) if bits != FP32 else noise(10, 256, 1)
    assert rounding_error(
        torch.from_numpy(worst), torch.from_numpy(_rounded(worst, bits))
    ) <= most * (1 + 1e-6)


def test_the_bound_of_bfloat16_is_tight_enough_to_filter() -> None:
    rows = _device_rows(noise(200, 576, 1), BF16)

    assert 2 * rows.rounding < score_error(rows, rows) < 0.005


@pytest.mark.parametrize("bits", [BF16, TF32])
def test_errors_of_rows_that_are_rounded_in_one_direction_come_near_the_bound(bits: int) -> None:
    rows = rounded_down(20, 256, 1, bits)
    side = _device_rows(rows, bits)

    errors = np.abs(scores(side.rounded, side.rounded).double().numpy() - cosines(rows, rows))

    sums = score_error(side, side) - 2 * side.rounding
    assert 1.2 * side.rounding < errors.max() < 2 * side.rounding + sums


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [1, 7, 8, 576, 1280])
def test_device_rows_of_an_input_have_products_within_their_bound(device: str, dim: int) -> None:
    chosen = torch.device(device)
    left, right = families(300, dim, 1), families(200, dim, 2)
    sides = [
        DeviceRows.of(
            JoinInput.of(rows, "rows"), 0, len(np.unique(rows, axis=0)), chosen, fast_dtype(chosen)
        )
        for rows in (left, right)
    ]

    products = scores(sides[0].rounded, sides[1].rounded).cpu().numpy().astype(np.float64)

    exact = cosines(*(side.whole.cpu().numpy() for side in sides))
    assert np.abs(products - exact).max() <= score_error(*sides)
    assert all(side.rounded.shape[1] % 8 == 0 for side in sides)


def test_rows_with_numbers_below_the_range_of_the_format_are_within_the_bound() -> None:
    rows = np.zeros((3, 64), np.float32)
    rows[:, 0] = 1
    rows[1:, 1:] = np.float32(1e-40)
    side = JoinInput.of(rows, "rows")
    device_rows = DeviceRows.of(side, 0, 2, torch.device("cpu"), torch.bfloat16)

    products = scores(device_rows.rounded, device_rows.rounded).numpy()

    assert np.abs(products - 1).max() <= score_error(device_rows, device_rows)
