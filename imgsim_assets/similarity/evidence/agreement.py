"""Agreement: whether the pixels of two aligned images agree, and how much of them overlaps.

Two products on one carpet align as well as two copies do, since the carpet has many corners. The
pixels tell them apart: those of copies agree in nearly all of the overlap, once brightness and
contrast are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.evidence.alignment import Alignment
from imgsim_assets.similarity.evidence.features import EDGE, opencv

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Outside of every value: marks pixels that the warped image does not cover.
OUTSIDE = -1000.0
# Gray values by which a pixel may lie outside of the range of its neighborhood in the other image.
_TOLERANCE = 6.0
_MIN_PIXELS = 64
# Gray values that are not cut off at black or white.
_DARKEST, _BRIGHTEST = 4, 251
_MIN_UNCUT = 20
# Contrast, brightness and slopes of the light between equal images, and how strongly each is held.
_SAME_LIGHT = np.array([1.0, 0.0, 0.0, 0.0])
_RIDGE = np.array([1e3, 1e-2, 3.0, 3.0])
_CONTRASTS = (0.3, 3.0)
_FITS = 4
# Pixels of the thumbnail around an inlier that show the same.
_NEAR = 2
# Pixels of the thumbnail around the inliers that belong to the core.
_MARGIN = 1.5


@dataclass(frozen=True)
class Agreement:
    """How two aligned thumbnails agree in a region.

    Attributes:
        source_share: the share of the warped image that the region covers, from 0 to 1.
        target_share: the share of the other image that the region covers, from 0 to 1.
        agreeing: the share of the region whose gray values agree.
    """

    source_share: float
    target_share: float
    agreeing: float


@dataclass(frozen=True, eq=False)
class Overlay:
    """A gray thumbnail that is laid over another one by an alignment.

    Attributes:
        warped: (h, w), the source as it lies over the target; below 0 outside of it.
        target: (h, w), the other thumbnail.
        inside: (h, w), the pixels that the source covers.
        box: (h, w), those of them in the box around the inliers, which leaves out the neighbors of
            an image in a collage.
        agrees: (h, w), where the gray values agree.
        source_pixels: how many pixels of the target the source would cover, if all of it did.
    """

    warped: NDArray[np.float32]
    target: Bytes
    inside: Mask
    box: Mask
    agrees: Mask
    source_pixels: float

    @classmethod
    def of(cls, source: Bytes, target: Bytes, alignment: Alignment) -> Overlay:
        """Lay a thumbnail over another one.

        Args:
            source: (h, w), the thumbnail that is warped, mirrored already where that is to be.
            target: (h, w), the one it is compared with.
            alignment: the transform from the source to the target.
        """
        warped, area = warp(source, target.shape, alignment)
        inside = warped > OUTSIDE / 2
        points = alignment.right_points * (max(target.shape) / EDGE)
        agrees = _agrees(warped, target.astype(np.float64), inside, _near(points, target.shape))
        box = inside & _box(points, target.shape)
        return cls(warped, target, inside, box, agrees, area * source.size)

    @property
    def whole(self) -> Agreement:
        """The agreement in the whole overlap."""
        return self._within(self.inside)

    @property
    def core(self) -> Agreement:
        """The agreement in the box around the inliers."""
        return self._within(self.box)

    def _within(self, region: Mask) -> Agreement:
        count = int(region.sum())
        return Agreement(
            min(1.0, count / self.source_pixels),
            count / self.target.size,
            float(self.agrees[region].mean()) if count >= _MIN_PIXELS else 0.0,
        )


def overlays(left: Bytes, right: Bytes, alignment: Alignment) -> tuple[Overlay, Overlay]:
    """Either thumbnail over the other, the left one mirrored where the alignment says so.

    What is black, white or small in one of them has lost its detail.
    """
    source = left[:, ::-1] if alignment.mirrored else left
    return Overlay.of(source, right, alignment), Overlay.of(right, source, alignment.reversed())


def warp(
    source: Bytes, shape: tuple[int, ...], alignment: Alignment
) -> tuple[NDArray[np.float32], float]:
    """A thumbnail as it lies over another one, and the pixels that each of its own covers.

    Args:
        source: (h, w), mirrored already where that is to be.
        shape: height and width of the other thumbnail.
        alignment: the transform from the source to the target.

    Returns:
        (h, w) values, OUTSIDE where the source has none; and the number of pixels.
    """
    from_source, to_target = max(source.shape) / EDGE, max(shape) / EDGE
    matrix = _rescaled(alignment.matrix, from_source, to_target)
    area = abs(float(np.linalg.det(matrix[:, :2])))
    return _warp(source.astype(np.float32), matrix, (shape[1], shape[0]), area), area


def _rescaled(matrix: Floats, from_source: float, to_target: float) -> Floats:
    """The matrix between pixels of copies that are scaled by these factors."""
    linear = matrix[:, :2] * (to_target / from_source)
    # Centers of pixels lie half a pixel from their corners, at both scales.
    shift = (matrix[:, 2] + 0.5 - matrix[:, :2] @ (0.5, 0.5)) * to_target
    return np.column_stack([linear, shift - 0.5 + linear @ (0.5, 0.5)])


def _box(points: Floats, shape: tuple[int, ...]) -> Mask:
    """The pixels (h, w) of the box around points (n, 2), and of a margin."""
    (left, top), (right, bottom) = points.min(axis=0) - _MARGIN, points.max(axis=0) + _MARGIN
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    box: Mask = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
    return box


def _near(points: Floats, shape: tuple[int, ...]) -> Mask:
    """The pixels (h, w) at points (n, 2), and the two nearest on all sides."""
    near = np.zeros(shape, np.uint8)
    columns, rows = np.clip(np.rint(points).astype(np.intp), 0, (shape[1] - 1, shape[0] - 1)).T
    near[rows, columns] = 1
    neighborhood = np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8)
    return np.asarray(opencv().dilate(near, neighborhood), dtype=bool)


def _warp(
    source: NDArray[np.float32], matrix: Floats, size: tuple[int, int], area: float
) -> NDArray[np.float32]:
    cv2 = opencv()
    if area < 0.5:  # a smaller copy is blurred first, as its pixels cover several
        source = cv2.GaussianBlur(source, (0, 0), 0.5 / np.sqrt(area))
    warped: NDArray[np.float32] = cv2.warpAffine(
        np.ascontiguousarray(source),
        matrix,
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=OUTSIDE,
    )
    # Pixels at the border mix with the outside.
    warped[(warped < 0) | (warped > 255)] = OUTSIDE
    return warped


def _agrees(warped: NDArray[np.float32], target: Floats, inside: Mask, near: Mask) -> Mask:
    """Which pixels (h, w) agree, up to light and to one pixel of position."""
    cv2 = opencv()
    neighborhood = np.ones((3, 3), np.uint8)
    lowest = cv2.erode(np.where(inside, warped, -OUTSIDE).astype(np.float32), neighborhood)
    highest = cv2.dilate(np.where(inside, warped, OUTSIDE).astype(np.float32), neighborhood)
    contrast, light = _fit_light(warped, target, inside & near)
    low, high = (np.clip(contrast * each + light, 0, 255) for each in (lowest, highest))
    agrees: Mask = (target > low - _TOLERANCE) & (target < high + _TOLERANCE)
    return agrees


def _fit_light(warped: NDArray[np.float32], target: Floats, at: Mask) -> tuple[float, Floats]:
    """The contrast, and for each pixel (h, w) the light, that bring some pixels near the target.

    Pixels near the inliers show the same, so that they tell the light: what else is in the images
    has no say. The light is a linear function of the position, as in a photograph of a screen.
    Values that are cut off at black or white have no part in the fit.
    """
    height, width = target.shape
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    source, wanted = warped[at].astype(np.float64), target[at]
    usable = (np.minimum(source, wanted) > _DARKEST) & (np.maximum(source, wanted) < _BRIGHTEST)
    if usable.sum() < _MIN_UNCUT:
        return 1.0, np.zeros(target.shape)
    center = rows[at].mean(), columns[at].mean()
    slopes = np.stack([rows - center[0], columns - center[1]], axis=2)
    terms = np.column_stack([source, np.ones(len(source)), slopes[at]]).astype(np.float64)
    keep = usable
    factors: Floats = _SAME_LIGHT
    for _ in range(_FITS):
        kept = terms[keep]
        # The ridge holds the light of few pixels near that of the same image.
        normal = kept.T @ kept + np.diag(_RIDGE)
        rest = kept.T @ (wanted[keep] - kept @ _SAME_LIGHT)
        factors = _SAME_LIGHT + np.linalg.solve(normal, rest)
        errors = np.abs(terms @ factors - wanted)
        keep = usable & (errors <= 2.5 * np.median(errors[usable]) + 4)
    contrast = float(np.clip(factors[0], *_CONTRASTS))
    return contrast, factors[1] + slopes @ factors[2:]
