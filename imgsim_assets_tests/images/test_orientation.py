"""The eight orientations of an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imgsim_assets.images.orientation import ORIENTATIONS, TURNED, UPRIGHT, Orientation

_IMAGE = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))


def test_orientations_are_eight_different_ones_and_upright_is_first() -> None:
    turned = [each.apply(_IMAGE) for each in ORIENTATIONS]

    assert len({(image.size, image.tobytes()) for image in turned}) == 8
    assert turned[0].tobytes() == _IMAGE.tobytes()
    assert (UPRIGHT, *TURNED) == ORIENTATIONS


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda each: each.name)
def test_inverse_undoes_an_orientation(orientation: Orientation) -> None:
    turned = orientation.apply(_IMAGE)

    assert orientation.inverse in ORIENTATIONS
    assert orientation.inverse.apply(turned).tobytes() == _IMAGE.tobytes()
