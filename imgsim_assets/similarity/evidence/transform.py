"""The kind of a transform: what turns one of two aligned images into the other."""

from __future__ import annotations

import math

from imgsim_assets.similarity.evidence.agreement import Agreement
from imgsim_assets.similarity.evidence.alignment import Alignment
from imgsim_assets.similarity.evidence.features import ImageFeatures

FLIP, ROTATION, CROP, SCALE, IDENTITY = "flip", "rotation", "crop", "scale", "identity"
_SEPARATOR = "+"
_MIN_TURN = math.radians(2.5)
# One image shows less than this share of the other; turning by 5 degrees cuts the corners off.
_CROPPED = 0.93
# Sizes that differ by less are those of rounding.
_SAME_SIZE = 0.02


def transform_kind(
    left: ImageFeatures, right: ImageFeatures, alignment: Alignment, region: Agreement
) -> str:
    """The kinds of a transform, in the order of FLIP to SCALE, joined by `+`.

    `crop`: one image shows a part of the other, or stands within it; `scale`: their sizes differ
    and neither is cropped; `identity`: none of all these.
    """
    turn = math.atan2(alignment.matrix[1, 0], alignment.matrix[0, 0])
    is_cropped = min(region.source_share, region.target_share) < _CROPPED
    sizes = max(left.width, left.height), max(right.width, right.height)
    kinds = {
        FLIP: alignment.mirrored,
        ROTATION: abs(turn) > _MIN_TURN,
        CROP: is_cropped,
        SCALE: not is_cropped and min(sizes) < (1 - _SAME_SIZE) * max(sizes),
    }
    return _SEPARATOR.join(kind for kind, applies in kinds.items() if applies) or IDENTITY
