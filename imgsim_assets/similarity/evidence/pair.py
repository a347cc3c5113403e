"""The evidence for one pair of images."""

from __future__ import annotations

from typing import NamedTuple

from imgsim_assets.similarity.evidence.agreement import Agreement, Overlay, overlays
from imgsim_assets.similarity.evidence.alignment import align
from imgsim_assets.similarity.evidence.closeness import is_close
from imgsim_assets.similarity.evidence.features import ComparableImage, features_fingerprint
from imgsim_assets.similarity.evidence.tiers import ALIGNED, SAME_PIXELS, SIMILAR, Tier
from imgsim_assets.similarity.evidence.transform import transform_kind

# Increment it when the same features of a pair give another outcome.
_VERSION = 3
# An alignment is evidence with this many inliers, and where this share of the overlap agrees, or of
# the box around the inliers.
MIN_INLIERS = 10
MIN_AGREEING, MIN_AGREEING_CORE = 0.8, 0.85
# The least share of the image that the overlap or the box covers most of, and of the other image.
_WHOLE_SHARES, _CORE_SHARES = (0.3, 0.04), (0.25, 0.08)


class Evidence(NamedTuple):
    """The tier of a pair; with tier aligned also the inliers and the kind of the transform.

    `close`: the images are close copies, see `closeness`; those of the same pixels are.
    """

    tier: Tier
    inliers: int | None = None
    transform: str | None = None
    close: bool = False


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
        return Evidence(SAME_PIXELS, close=True)
    alignment = align(left.keypoints, right.keypoints, left.gray_size[0])
    if alignment is None or alignment.inliers < MIN_INLIERS:
        return Evidence(SIMILAR)
    both = overlays(a.thumbnail, b.thumbnail, alignment)
    region = _agreeing_region(both)
    if region is None:
        return Evidence(SIMILAR)
    transform = transform_kind(a, b, alignment, region)
    return Evidence(ALIGNED, alignment.inliers, transform, is_close(left, right, alignment, both))


def _agreeing_region(both: tuple[Overlay, Overlay]) -> Agreement | None:
    """The overlap, or the box around the inliers, if enough of it agrees."""
    for overlay in both:
        for region, min_agreeing, min_shares in (
            (overlay.whole, MIN_AGREEING, _WHOLE_SHARES),
            (overlay.core, MIN_AGREEING_CORE, _CORE_SHARES),
        ):
            if region.agreeing >= min_agreeing and _covers(region, *min_shares):
                return region
    return None


def _covers(region: Agreement, more: float, less: float) -> bool:
    shares = region.source_share, region.target_share
    return max(shares) >= more and min(shares) >= less
