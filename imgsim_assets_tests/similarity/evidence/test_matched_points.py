from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.evidence.matched_points import matched_points
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.scenes import png, scene

ORIGINAL = scene(7)
# What each edit does to a position, as fractions of the width and the height.
EDITS: dict[str, tuple[Image.Image, Callable[[float, float], tuple[float, float]]]] = {
    "mirrored": (ImageOps.mirror(ORIGINAL), lambda x, y: (1 - x, y)),
    "cropped": (
        ORIGINAL.crop((48, 36, 432, 324)),
        lambda x, y: ((x - 0.1) / 0.8, (y - 0.1) / 0.8),
    ),
    "turned": (ORIGINAL.transpose(Image.Transpose.ROTATE_90), lambda x, y: (y, 1 - x)),
    "smaller": (ORIGINAL.resize((240, 180)), lambda x, y: (x, y)),
}


def _put(store: Store, image: Image.Image) -> str:
    sha256 = store.blobs.put(png(image))
    store.blobs.flush()
    return sha256


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("is_swapped", [False, True])
def test_points_and_matrix_lead_from_one_image_to_the_other(
    store: Store, edit: str, is_swapped: bool
) -> None:
    image, moved = EDITS[edit]
    images = [_put(store, ORIGINAL), _put(store, image)]

    found = matched_points(store, *(reversed(images) if is_swapped else images))

    assert found.evidence.tier == "aligned"
    assert found.matrix is not None
    left, right = (found.right, found.left) if is_swapped else (found.left, found.right)
    expected = np.array([moved(x, y) for x, y in left])
    assert np.abs(right - expected).max() < 0.02
    by_matrix = found.left @ found.matrix[:, :2].T + found.matrix[:, 2]
    assert np.abs(by_matrix - found.right).max() < 0.02


def test_other_images_do_not_align(store: Store) -> None:
    found = matched_points(store, _put(store, ORIGINAL), _put(store, scene(8)))

    assert found.evidence.tier == "similar"


def test_missing_image_is_an_error(store: Store) -> None:
    with pytest.raises(CorruptFileError):
        matched_points(store, _put(store, ORIGINAL), "0" * 64)
