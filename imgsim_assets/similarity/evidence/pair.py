"""The evidence for one pair of images."""

from __future__ import annotations

from typing import NamedTuple

from imgsim_assets.similarity.evidence.agreement import Agreement, agreement
from imgsim_assets.similarity.evidence.alignment import Alignment, align
from imgsim_assets.similarity.evidence.features import (
    EDGE,
    ImageFeatures,
    Keypoints,
    features_fingerprint,
    scaled_size,
)
from imgsim_assets.similarity.evidence.tiers import ALIGNED, SAME_PIXELS, SIMILAR, Tier
from imgsim_assets.similarity.evidence.transform import transform_kind

# Increment it when the same features of a pair give another outcome.
_VERSION = 1
# An alignment is evidence with this many inliers, and where this share of the overlap agrees, or of
# the box around the inliers.
MIN_INLIERS = 10
MIN_AGREEING, MIN_AGREEING_CORE = 0.8, 0.85
# The least share of the image that the overlap or the box covers most of, and of the other image.
_WHOLE_SHARES, _CORE_SHARES = (0.3, 0.04), (0.3, 0.12)


class Evidence(NamedTuple):
    """The tier of a pair; with tier aligned also the inliers and the kind of the transform."""

    tier: Tier
    inliers: int | None = None
    transform: str | None = None


class ComparableImage(NamedTuple):
    """The features of an image, with its keypoints unpacked."""

    features: ImageFeatures
    keypoints: Keypoints

    @classmethod
    def of(cls, features: ImageFeatures) -> ComparableImage:
        """Unpack the keypoints."""
        return cls(features, Keypoints.of(features))


def evidence_fingerprint() -> str:
    """Names what the evidence for a pair depends on, besides its images.

    Raises:
        SettingsError: OpenCV is not installed.
    """
    return f"{features_fingerprint()}.{_VERSION}"


def compare(left: ComparableImage, right: ComparableImage) -> Evidence:
    """The evidence for two images of different bytes.

    The outcome may depend on which image is the left one: pass them in the order of their sha256.
    """
    a, b = left.features, right.features
    if a.pixels == b.pixels:
        return Evidence(SAME_PIXELS)
    width, _ = scaled_size((a.width, a.height), EDGE)
    alignment = align(left.keypoints, right.keypoints, width)
    if alignment is None or alignment.inliers < MIN_INLIERS:
        return Evidence(SIMILAR)
    region = _agreeing_region(a, b, alignment)
    if region is None:
        return Evidence(SIMILAR)
    return Evidence(ALIGNED, alignment.inliers, transform_kind(a, b, alignment, region))


def _agreeing_region(
    left: ImageFeatures, right: ImageFeatures, alignment: Alignment
) -> Agreement | None:
    """The overlap, or the box around the inliers, if enough of it agrees.

    Either image is warped to the other: what is black, white or small in one has lost its detail.
    """
    source = left.thumbnail[:, ::-1] if alignment.mirrored else left.thumbnail
    for overlap in (
        agreement(source, right.thumbnail, alignment),
        agreement(right.thumbnail, source, alignment.reversed()),
    ):
        for region, min_agreeing, min_shares in (
            (overlap.whole, MIN_AGREEING, _WHOLE_SHARES),
            (overlap.core, MIN_AGREEING_CORE, _CORE_SHARES),
        ):
            if region.agreeing >= min_agreeing and _covers(region, *min_shares):
                return region
    return None


def _covers(region: Agreement, more: float, less: float) -> bool:
    shares = region.source_share, region.target_share
    return max(shares) >= more and min(shares) >= less
