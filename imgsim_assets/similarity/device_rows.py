"""Rows of a join on a device of torch: whole, and rounded to the format that it multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from imgsim_assets.similarity.join_input import JoinInput

# Numbers that are copied and rounded at once.
_VALUES_PER_PART = 1 << 23
# Tensor cores multiply rows of a multiple of this many numbers.
_ALIGNMENT = 8


@dataclass(frozen=True)
class DeviceRows:
    """Some unique rows of an input on a device.

    `whole` is (n, d) float32, and `rounded` (n, d or a little more) are the rows in the number
    format that is multiplied, with zeros at the end. `rounding` bounds the length of the difference
    of a row and its rounded form, and `length` that of a row.
    """

    whole: torch.Tensor
    rounded: torch.Tensor
    rounding: float
    length: float

    @classmethod
    def of(
        cls, side: JoinInput, start: int, stop: int, device: torch.device, dtype: torch.dtype
    ) -> DeviceRows:
        """The unique rows of an input from `start` to `stop`, rounded to `dtype`."""
        count, width = stop - start, -(-side.dim // _ALIGNMENT) * _ALIGNMENT
        whole = torch.empty((count, side.dim), dtype=torch.float32, device=device)
        rounded = torch.empty((count, width), dtype=dtype, device=device)
        rounding = 0.0
        # In parts, so that neither memory holds another copy of all rows.
        step = max(1, _VALUES_PER_PART // max(1, side.dim))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            part = slice(first - start, last - start)
            whole[part] = torch.tensor(side.block(first, last)[0], device=device)
            rounded[part] = pad(whole[part], (0, width - side.dim)).to(dtype)
            rounding = max(rounding, rounding_error(whole[part], rounded[part, : side.dim]))
        return cls(whole, rounded, rounding, 1 + side.unit.deviation)


def rounding_error(whole: torch.Tensor, rounded: torch.Tensor) -> float:
    """A bound of the lengths of the differences between rows and their rounded forms.

    It is measured: rows rounded to bfloat16 differ by 0.0017 on average, and by 2^-8 at worst.
    """
    if not whole.numel():
        return 0.0
    # The difference of a number and its rounded form is exact in float32.
    squares = (whole - rounded.float()).double().square().sum(dim=1)
    # The factor covers the rounding of this sum.
    return float(squares.max().sqrt()) * (1 + 1e-9)


def score_error(left: DeviceRows, right: DeviceRows) -> float:
    """How far the product of rounded rows, as a device computes it, can be from the cosine.

    Proof. Rows x and y have lengths of at most L, and their rounded forms x' and y' are no
    further from them than a and b. Then

        |x.y - x'.y'| = |(x - x').y + x'.(y - y')| <= a L + (L + a) b.

    The products of bfloat16 numbers are exact in float32. Tensor cores add a group of them to the
    sum so far at once: all terms are aligned with the largest and cut off, and so is the result, to
    24 bits or more (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor
    cores", PeerJ CS 2021; Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores", 2025,
    for the H100). Terms and sums are at most |x'| |y'|, so each cut loses at most 2^-23 of that. A
    group of n terms has n + 2 cuts, at most 3 for each of the d terms. Float32 products and sums
    that round to nearest lose less. With 4 for each,

        |computed - x'.y'| <= g (L + a) (L + b),   g = 4 (d + 8) 2^-23.

    The cosine is x.y divided by the lengths, so it differs from x.y by no more than L^2 - 1. The
    rounding of a cutoff and numbers too small for the format add 2^-24.
    """
    length, dim = max(left.length, right.length), left.whole.shape[1]
    a, b = left.rounding, right.rounding
    rounding = a * length + (length + a) * b
    sums = 4 * (dim + 8) * 2.0**-23 * (length + a) * (length + b)
    return rounding + sums + (length**2 - 1) + 2.0**-24


def fast_dtype(device: torch.device) -> torch.dtype:
    """The number format that a device multiplies fastest with sums in float32.

    TF32 is none of them: it has half the rate, and torch's switch for it is one for the whole
    process, in which an encoder may compute float32 vectors.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32
    return torch.bfloat16


def scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The products (n, m) float32 of rounded rows."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        return torch.mm(left, right.T, out_dtype=torch.float32)
    return left.float() @ right.float().T
