"""Alignment: a geometric transform that maps keypoints of one image onto those of another.

Every match of two keypoints proposes a transform by itself, from their positions, sizes and
angles. All of them are tried, so that the outcome depends on no random draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.evidence.features import EDGE, Keypoints

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The nearest descriptor must be nearer than this share of the second nearest one.
_RATIO = 0.8
# Pixels within which a keypoint fits a proposed transform, and then those that are fitted to it.
_LOOSE = 0.04 * EDGE
_TOLERANCES = (0.04 * EDGE, 0.0275 * EDGE, 0.015 * EDGE)
_MIN_MATCHES = 4
# Matches that fit one transform agree in scale and angle.
_MAX_SCALE_RATIO = 1.6
_MAX_ANGLE = 0.5
# Fewer inliers than this determine a similarity only, not an affine transform.
_MIN_AFFINE = 6
# Transforms of copies: not more than this much smaller or larger, or stretched.
_MAX_SCALE = 6.0
_MAX_STRETCH = 2.0
# Keypoints of one position, of several sizes or angles, count once.
_CELL = 4.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """A transform from the left gray copy, mirrored or not, to the right one.

    Attributes:
        matrix: (2, 3), for columns x, y and 1.
        mirrored: whether the left image is mirrored before.
        inliers: the number of distinct keypoints that the transform maps onto each other.
        left_points: (n, 2), the inliers on the left.
        right_points: (n, 2), the inliers on the right.
    """

    matrix: Doubles
    mirrored: bool
    inliers: int
    left_points: Doubles
    right_points: Doubles

    def reversed(self) -> Alignment:
        """The transform from the right gray copy to the left one, which may be mirrored."""
        linear = np.linalg.inv(self.matrix[:, :2])
        matrix = np.column_stack([linear, -linear @ self.matrix[:, 2]])
        return replace(
            self,
            matrix=matrix,
            left_points=self.right_points,
            right_points=self.left_points,
        )


def align(left: Keypoints, right: Keypoints, left_width: int) -> Alignment | None:
    """The transform with the most inliers, plain or mirrored; None if nothing aligns.

    Args:
        left: keypoints of the left image.
        right: keypoints of the right image.
        left_width: width in pixels of the gray copy of the left image.
    """
    plain = _align(left, right, mirrored=False)
    mirrored = _align(left.mirrored(left_width), right, mirrored=True)
    if plain is None or (mirrored is not None and mirrored.inliers > plain.inliers):
        return mirrored
    return plain


def match_descriptors(left: Keypoints, right: Keypoints) -> tuple[NDArray[np.intp], Mask]:
    """Of each left keypoint the nearest right one, and whether the match is distinctive.

    It is when each is the other's nearest, and the second nearest is clearly farther.
    """
    count = len(left.norms)
    if not count or len(right.norms) < 2:
        return np.zeros(count, np.intp), np.zeros(count, dtype=bool)
    products = left.descriptors @ right.descriptors.T
    distances = right.norms - 2 * products + left.norms[:, None]
    rows = np.arange(count)
    nearest = distances.argmin(axis=1)
    mutual = distances.argmin(axis=0)[nearest] == rows
    first = distances[rows, nearest]
    distances[rows, nearest] = np.inf
    return nearest, mutual & (first < _RATIO**2 * distances.min(axis=1))


def _align(left: Keypoints, right: Keypoints, *, mirrored: bool) -> Alignment | None:
    nearest, distinctive = match_descriptors(left, right)
    at, to = np.flatnonzero(distinctive), nearest[distinctive]
    if len(at) < _MIN_MATCHES:
        return None
    source, target = left.xy[at], right.xy[to]
    scale = right.size[to] / left.size[at]
    turn = right.angle[to] - left.angle[at]
    fitted = _fit(source, target, scale, turn)
    if fitted is None:
        return None
    matrix, inliers = fitted
    source, target = source[inliers], target[inliers]
    if len(target) < _MIN_MATCHES or not _is_sane(matrix):
        return None
    count = min(_distinct(source), _distinct(target))
    return Alignment(matrix, mirrored, count, source, target)


def _fit(
    source: Doubles, target: Doubles, scale: Doubles, turn: Doubles
) -> tuple[Doubles, Mask] | None:
    """The matrix of the best proposal, fitted to its inliers (n,)."""
    factor = scale * np.exp(1j * turn)
    before, after = source @ (1, 1j), target @ (1, 1j)
    shift = after - factor * before
    residuals = np.abs(np.outer(factor, before) + shift[:, None] - after)
    agree = np.abs(np.log(scale[:, None] / scale)) < np.log(_MAX_SCALE_RATIO)
    agree &= np.abs(np.angle(np.outer(factor, factor.conj()))) < _MAX_ANGLE
    best = (agree & (residuals < _LOOSE)).sum(axis=1).argmax()
    consistent = agree[best]
    inliers = consistent & (residuals[best] < _LOOSE)
    matrix: Doubles | None = None
    for tolerance in _TOLERANCES:
        matrix = _solve(source[inliers], target[inliers])
        if matrix is None:
            return None
        errors = np.hypot(*(source @ matrix[:, :2].T + matrix[:, 2] - target).T)
        inliers = consistent & (errors < tolerance)
    return None if matrix is None else (matrix, inliers)


def _solve(source: Doubles, target: Doubles) -> Doubles | None:
    """The least-squares affine transform, or similarity of few points; None if undetermined."""
    if len(source) < 3:
        return None
    center, goal = source.mean(axis=0), target.mean(axis=0)
    moved, wanted = source - center, target - goal
    spread = moved.T @ moved
    if len(source) < _MIN_AFFINE:
        z, w = moved @ (1, 1j), wanted @ (1, 1j)
        energy = float(np.square(np.abs(z)).sum())
        if energy < 1:
            return None
        factor = complex((z.conj() * w).sum()) / energy
        linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    else:
        if np.linalg.det(spread) < len(source) ** 2:  # on a line, or in one point
            return None
        linear = np.linalg.solve(spread, moved.T @ wanted).T
    return np.column_stack([linear, goal - linear @ center])


def _is_sane(matrix: Doubles) -> bool:
    """Whether a transform is one that copies have: of moderate scale, hardly stretched."""
    linear = matrix[:, :2]
    largest, smallest = np.linalg.svd(linear, compute_uv=False)
    return bool(
        np.linalg.det(linear) > 0
        and largest < _MAX_SCALE
        and smallest > 1 / _MAX_SCALE
        and largest < _MAX_STRETCH * smallest
    )


def _distinct(points: Doubles) -> int:
    """How many cells of a grid have a point."""
    cells = np.floor_divide(points, _CELL).astype(np.int64)
    return len(np.unique(cells[:, 0] * EDGE + cells[:, 1]))
