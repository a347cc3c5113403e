"""Closeness: whether two aligned images are copies of one photograph, or look alike only.

Two products of one model, photographed alike, align and agree in most pixels. Three measures tell
them apart from edited copies:

- *texture*: the share of the pixels with detail that agree. Plain ground agrees in any case.
- *coverage*: the share of the keypoints in the overlap that the transform maps.
- *displacement*: how far the inliers are from a perspective transform. Edits move all points by one
  transform; another view or another product moves them apart.

Around the inliers, the colors must agree as well, unless one of the images is gray: two colors of
one product are two products.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.evidence.agreement import OUTSIDE, Mask, Overlay, warp
from imgsim_assets.similarity.evidence.alignment import Alignment
from imgsim_assets.similarity.evidence.features import ComparableImage, opencv

Doubles = NDArray[np.float64]

# Fewer inliers than this are those of a logo, or of the axes of two charts.
MIN_INLIERS = 16
# The least sum of texture, coverage and displacement with these weights.
MIN_CLOSENESS = 0.9
_COVERAGE, _DISPLACEMENT = 0.5, -0.3
# A pixel has detail where the gray values next to it differ by more than this.
_DETAIL = 24
_MIN_DETAILED = 10
# The least share of the colored pixels whose color agrees.
_MIN_SAME_COLOR = 0.5
# Cb and Cr are this far from gray, in a gray image and in a colored pixel.
_GRAY, _COLORED = 2.5, 16.0
# Fewer colored pixels than this, or than this share, decide nothing.
_MIN_COLORED, _MIN_COLORED_SHARE = 5, 0.01
# A tint that all pixels share, and what else a color may differ by: a number, and a share of it.
_MAX_TINT = 12.0
_COLOR_TOLERANCE, _COLOR_TOLERANCE_SHARE = 10.0, 0.3
_COVERED_CELL = 0.7
_MIN_CELLS = 16
_NEIGHBORHOOD = np.ones((3, 3), np.uint8)


def is_close(
    left: ComparableImage,
    right: ComparableImage,
    alignment: Alignment,
    both: tuple[Overlay, Overlay],
) -> bool:
    """Whether two aligned images are close copies.

    Args:
        left: an image.
        right: another one.
        alignment: the transform from the left to the right image.
        both: the left thumbnail over the right one, and the reverse.
    """
    if alignment.inliers < MIN_INLIERS:
        return False
    closeness = (
        max(map(_texture, both))
        + _COVERAGE * max(_coverage(left, right, alignment))
        + _DISPLACEMENT * _displacement(alignment)
    )
    # NaN, of points that determine no transform, is not close.
    return closeness >= MIN_CLOSENESS and _has_same_color(left, right, alignment, both)


def _texture(overlay: Overlay) -> float:
    """The share of the detailed pixels that agree, in the overlap or around the inliers."""
    cv2 = opencv()
    warped = np.where(overlay.inside, overlay.warped, 128).astype(np.float32)
    is_detailed = np.zeros(overlay.target.shape, dtype=bool)
    for gray in (overlay.target.astype(np.float32), warped):
        spread = cv2.dilate(gray, _NEIGHBORHOOD) - cv2.erode(gray, _NEIGHBORHOOD)
        is_detailed |= spread > _DETAIL
    is_detailed &= cv2.erode(overlay.inside.astype(np.uint8), _NEIGHBORHOOD) > 0
    shares = [0.0]
    for region in (overlay.inside, overlay.box):
        pixels = overlay.agrees[region & is_detailed]
        if len(pixels) >= _MIN_DETAILED:
            shares.append(float(pixels.mean()))
    return max(shares)


def _coverage(
    left: ComparableImage, right: ComparableImage, alignment: Alignment
) -> Iterable[float]:
    """The share of either image's keypoints in the overlap that are inliers."""
    moved = left.keypoints.mirrored(left.gray_size[0]) if alignment.mirrored else left.keypoints
    for points, matrix, size in (
        (moved.xy, alignment.matrix, right.gray_size),
        (right.keypoints.xy, alignment.reversed().matrix, left.gray_size),
    ):
        mapped = points @ matrix[:, :2].T + matrix[:, 2]
        is_inside = ((mapped >= 0) & (mapped < size)).all(axis=1)
        yield len(alignment.left_points) / max(1, int(is_inside.sum()))


def _displacement(alignment: Alignment) -> float:
    """The median distance of the inliers from the transform, in pixels of the gray copies."""
    source, target = alignment.left_points, alignment.right_points
    mapped = _perspective(source, target)
    # Distances are those halfway between the scales of both images.
    scale = float(np.sqrt(np.sqrt(abs(np.linalg.det(alignment.matrix[:, :2])))))
    distances = np.hypot(*(mapped - target).T)
    return float(np.median(distances)) / scale


def _perspective(source: Doubles, target: Doubles) -> Doubles:
    """The source points (n, 2), moved by the perspective transform that is fitted to both."""
    center, goal = source.mean(axis=0), target.mean(axis=0)
    spread, size = (max(float(np.sqrt(each.var(axis=0).sum())), 1e-6) for each in (source, target))
    x, y = ((source - center) / spread).T
    u, v = ((target - goal) / size).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    terms = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=1),
        ]
    )
    a, b, c, d, e, f, g, h = np.linalg.lstsq(terms, np.concatenate([u, v]), rcond=None)[0]
    depth = g * x + h * y + 1
    mapped = np.stack([(a * x + b * y + c) / depth, (d * x + e * y + f) / depth], axis=1)
    moved: Doubles = mapped * size + goal
    return moved


def _has_same_color(
    left: ComparableImage,
    right: ComparableImage,
    alignment: Alignment,
    both: tuple[Overlay, Overlay],
) -> bool:
    """Whether colors agree around the inliers, or one of the images is gray."""
    a, b = left.features.chroma, right.features.chroma
    if min(float(np.quantile(_saturation(each - 128.0), 0.98)) for each in (a, b)) < _GRAY:
        return True
    source = a[:, ::-1] if alignment.mirrored else a
    ways = ((source, b, alignment), (b, source, alignment.reversed()))
    return all(
        _same_color(*way, overlay.box) >= _MIN_SAME_COLOR
        for way, overlay in zip(ways, both, strict=True)
    )


def _same_color(
    source: NDArray[np.uint8], target: NDArray[np.uint8], alignment: Alignment, region: Mask
) -> float:
    """The share of the colored pixels of a region (of the gray thumbnail) whose color agrees."""
    cv2 = opencv()
    height, width = target.shape[:2]
    share = cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    planes = [warp(source[:, :, each], (height, width), alignment)[0] for each in (0, 1)]
    is_inside = planes[0] > OUTSIDE / 2
    compared = is_inside & (share > _COVERED_CELL)
    if compared.sum() < _MIN_CELLS:
        return 1.0
    wanted = target.astype(np.float64) - 128
    moved = np.stack([np.where(is_inside, plane, 128) - 128.0 for plane in planes], axis=2)
    tint = np.median((wanted - moved)[compared], axis=0)
    moved += np.clip(tint, -_MAX_TINT, _MAX_TINT)
    strength = np.maximum(_saturation(moved), _saturation(wanted))
    colored = compared & (strength > _COLORED)
    if colored.sum() < max(_MIN_COLORED, _MIN_COLORED_SHARE * compared.sum()):
        return 1.0
    tolerance = _COLOR_TOLERANCE + _COLOR_TOLERANCE_SHARE * strength
    same = np.ones((height, width), dtype=bool)
    for plane, color in zip(np.moveaxis(moved, 2, 0), np.moveaxis(wanted, 2, 0), strict=True):
        lowest = cv2.erode(np.where(is_inside, plane, -OUTSIDE).astype(np.float32), _NEIGHBORHOOD)
        highest = cv2.dilate(np.where(is_inside, plane, OUTSIDE).astype(np.float32), _NEIGHBORHOOD)
        same &= (color < highest + tolerance) & (color > lowest - tolerance)
    return float(same[colored].mean())


def _saturation(chroma: NDArray[np.floating]) -> Doubles:
    """How far colors (h, w, 2) are from gray."""
    distance: Doubles = np.hypot(chroma[:, :, 0], chroma[:, :, 1])
    return distance
