"""The matched local features of two images, to draw them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.images.decode import decode
from imgsim_assets.similarity.evidence.alignment import Alignment, align
from imgsim_assets.similarity.evidence.features import (
    EDGE,
    ComparableImage,
    ImageFeatures,
    extract_features,
    scaled_size,
)
from imgsim_assets.similarity.evidence.pair import Evidence, compare
from imgsim_assets.storage.store import Store

Doubles = NDArray[np.float64]


class MatchedPoints(NamedTuple):
    """Where two images show the same.

    Attributes:
        evidence: for the pair.
        left: (n, 2), x and y as fractions of the width and the height of the left image, 0 to 1.
        right: (n, 2), the same of the right image.
        matrix: (2, 3), from x, y and 1 of the left image to x and y of the right one, both as
            fractions; None if the images do not align.
    """

    evidence: Evidence
    left: Doubles
    right: Doubles
    matrix: Doubles | None


def matched_points(store: Store, left_sha256: str, right_sha256: str) -> MatchedPoints:
    """Compare two images of a store, as a match table with evidence does.

    Raises:
        CorruptFileError: the bytes of an image are missing or damaged.
        ImageError: an image cannot be decoded.
        SettingsError: OpenCV is not installed.
    """
    # The outcome depends on the order of the images, which is that of their sha256.
    first, second = sorted((left_sha256, right_sha256))
    a, b = (_comparable(store, sha256) for sha256 in (first, second))
    width, _ = _gray_size(a.features)
    alignment = align(a.keypoints, b.keypoints, width)
    evidence = compare(a, b)
    if alignment is None:
        none = np.empty((0, 2))
        return MatchedPoints(evidence, none, none, None)
    found = _in_fractions(alignment, a.features, b.features)
    if first == left_sha256:
        return MatchedPoints(evidence, *found)
    from_second, from_first = found.right, found.left
    return MatchedPoints(evidence, from_second, from_first, _inverse(found.matrix))


def _comparable(store: Store, sha256: str) -> ComparableImage:
    image = decode(store.blobs.get(sha256), accept_truncated=True)
    return ComparableImage.of(extract_features(image))


def _gray_size(features: ImageFeatures) -> tuple[int, int]:
    return scaled_size((features.width, features.height), EDGE)


class _Fractions(NamedTuple):
    left: Doubles
    right: Doubles
    matrix: Doubles


def _in_fractions(alignment: Alignment, left: ImageFeatures, right: ImageFeatures) -> _Fractions:
    """The points and the matrix of an alignment, between images of width and height 1."""
    # Centers of pixels lie half a pixel from their corners. A mirrored left image is turned back.
    left_size, right_size = (np.array(_gray_size(each)) for each in (left, right))
    left_points = (alignment.left_points + 0.5) / left_size
    right_points = (alignment.right_points + 0.5) / right_size
    linear = alignment.matrix[:, :2] * left_size / right_size[:, None]
    shift = alignment.matrix[:, 2] + 0.5 - alignment.matrix[:, :2] @ (0.5, 0.5)
    matrix = np.column_stack([linear, shift / right_size])
    if alignment.mirrored:
        left_points[:, 0] = 1 - left_points[:, 0]
        matrix = np.column_stack([-matrix[:, 0], matrix[:, 1], matrix[:, 2] + matrix[:, 0]])
    return _Fractions(left_points, right_points, matrix)


def _inverse(matrix: Doubles) -> Doubles:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])
