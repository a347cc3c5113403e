"""What evidence needs of one image: local features, a thumbnail and a digest of its pixels.

The features are SIFT keypoints of a gray copy with edges of at most EDGE pixels. Coordinates,
angles and descriptors are whole numbers, so that sums over descriptors are exact: they are the same
on every machine and for any number of threads.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.errors import SettingsError
from imgsim_assets.images.decode import DECODER_VERSION

# Part of the fingerprint: increment it when the features of the same image change.
_VERSION = 2
EDGE = 256
MAX_POINTS = 300
THUMBNAIL_EDGE = 64
CHROMA_EDGE = 32
# Fainter corners count as well, since product photos are often soft.
_CONTRAST = 0.02
_DESCRIPTOR = 128
# Descriptors are stored with 4 bits per number, as the square roots of relative frequencies.
_LEVELS = 15
_LEVELS_PER_UNIT = 42.0
# Fractions of a pixel, and of a turn, in which keypoints are stored.
_STEPS_PER_PIXEL = 64
_STEPS_PER_TURN = 65_536
# A mirrored descriptor is the descriptor with its rows and its angles reversed.
_ANGLES = np.arange(8)
_MIRRORED = np.arange(_DESCRIPTOR).reshape(4, 4, 8)[::-1][:, :, -_ANGLES % 8].reshape(-1)
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """The features of one image.

    Attributes:
        pixels: digest of the decoded pixels and their size.
        width: of the decoded image, in pixels.
        height: of the decoded image, in pixels.
        points: (n, 4) uint16, each x, y and diameter in 1/64 pixel of the gray copy, and the
            angle in 1/65536 turn.
        descriptors: (n, 64) uint8, two numbers of 4 bits in each.
        thumbnail: (h, w) uint8, gray, with edges of at most THUMBNAIL_EDGE.
        chroma: (h, w, 2) uint8, Cb and Cr, with edges of at most CHROMA_EDGE.
    """

    pixels: str
    width: int
    height: int
    points: NDArray[np.uint16]
    descriptors: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]
    chroma: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints as they are compared.

    Attributes:
        xy: (n, 2) float64, the positions in pixels of the gray copy.
        size: (n,) float64, the diameters in pixels.
        angle: (n,) float64, in radians.
        descriptors: (n, 128) float32 whole numbers.
        norms: (n,) float32, their squared norms, which are whole numbers too.
    """

    xy: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]
    descriptors: NDArray[np.float32]
    norms: NDArray[np.float32]

    @classmethod
    def of(cls, features: ImageFeatures) -> Keypoints:
        """The keypoints of an image."""
        points = features.points.astype(np.float64)
        packed = features.descriptors
        descriptors = np.stack([packed >> 4, packed & _LEVELS], axis=2)
        numbers = descriptors.reshape(len(packed), _DESCRIPTOR).astype(np.float32)
        return cls(
            points[:, :2] / _STEPS_PER_PIXEL,
            points[:, 2] / _STEPS_PER_PIXEL,
            points[:, 3] * (2 * np.pi / _STEPS_PER_TURN),
            numbers,
            np.square(numbers).sum(axis=1),
        )

    def mirrored(self, width: int) -> Keypoints:
        """The keypoints of the mirrored image, whose gray copy is `width` pixels wide."""
        xy = np.stack([width - 1 - self.xy[:, 0], self.xy[:, 1]], axis=1)
        return Keypoints(
            xy, self.size, np.pi - self.angle, self.descriptors[:, _MIRRORED], self.norms
        )


class ComparableImage(NamedTuple):
    """The features of an image, with its keypoints unpacked."""

    features: ImageFeatures
    keypoints: Keypoints

    @classmethod
    def of(cls, features: ImageFeatures) -> ComparableImage:
        """Unpack the keypoints."""
        return cls(features, Keypoints.of(features))

    @property
    def gray_size(self) -> tuple[int, int]:
        """Width and height of the gray copy that has the keypoints."""
        return scaled_size((self.features.width, self.features.height), EDGE)


def extract_features(image: Image.Image) -> ImageFeatures:
    """The features of a decoded RGB image; an image without corners has no points."""
    gray = image.convert("L")
    small = np.asarray(gray.resize(scaled_size(gray.size, EDGE), Image.Resampling.BOX))
    thumbnail = gray.resize(scaled_size(gray.size, THUMBNAIL_EDGE), Image.Resampling.BOX)
    color = image.resize(scaled_size(image.size, CHROMA_EDGE), Image.Resampling.BOX)
    points, descriptors = _detect(np.ascontiguousarray(small))
    return ImageFeatures(
        _pixel_digest(image),
        image.width,
        image.height,
        points,
        descriptors,
        np.asarray(thumbnail),
        np.asarray(color.convert("YCbCr"))[:, :, 1:],
    )


def scaled_size(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Width and height scaled so that the longer one is `edge`."""
    scale = edge / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@cache
def features_fingerprint() -> str:
    """Names what the features depend on: the parameters, the decoder and the version of OpenCV.

    Raises:
        SettingsError: OpenCV is not installed.
    """
    parts = (
        _VERSION, EDGE, MAX_POINTS, THUMBNAIL_EDGE, CHROMA_EDGE, _CONTRAST, _LEVELS_PER_UNIT,
        DECODER_VERSION, opencv().__version__.split("."[0])[:2],
    )  # fmt: skip
    return f"sift-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def opencv() -> Any:
    """The module cv2.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise SettingsError(
            "evidence needs OpenCV, which is not installed; run: "
            "pip install 'imgsim_assets[evidence]'"
        ) from error
    return cv2


def _pixel_digest(image: Image.Image) -> str:
    digest = hashlib.sha256(b"%dx%d " % image.size)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _detect(gray: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    cv2 = opencv()
    with _lock:
        # Work is spread over images; OpenCV's own threads would order keypoints by chance.
        if cv2.getNumThreads() != 1:
            cv2.setNumThreads(1)
    detector = cv2.SIFT_create(nfeatures=MAX_POINTS, contrastThreshold=_CONTRAST)
    found, described = detector.detectAndCompute(gray, None)
    if not found:
        return np.zeros((0, 4), np.uint16), np.zeros((0, _DESCRIPTOR // 2), np.uint8)
    keypoints = np.array([(*point.pt, point.size, point.angle, point.response) for point in found])
    # Strongest first; position, size and angle decide among equals.
    order = np.lexsort((*keypoints[:, 3::-1].T, -keypoints[:, 4]))[:MAX_POINTS]
    keypoints, described = keypoints[order], described[order]
    steps = [_STEPS_PER_PIXEL] * 3 + [_STEPS_PER_TURN / 360]
    points = np.rint(keypoints[:, :4] * steps) % _STEPS_PER_TURN
    sums = np.maximum(described.sum(axis=1, keepdims=True), 1)
    levels = np.minimum(np.rint(np.sqrt(described / sums) * _LEVELS_PER_UNIT), _LEVELS)
    numbers = levels.astype(np.uint8)
    return points.astype(np.uint16), (numbers[:, ::2] << 4) | numbers[:, 1::2]
