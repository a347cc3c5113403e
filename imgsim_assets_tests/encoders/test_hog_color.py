from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.hog_color import DIM, SIZE, HogColor
from imgsim_assets.encoders.settings import HOG_COLOR_THRESHOLD
from imgsim_assets.images.perturbations import perturb
from imgsim_assets_tests.support.images import make_image

ENCODER = HogColor()
# The perturbations that the encoder documents as recognized.
RECOGNIZED = ["recompress", "resize", "crop", "brighten", "gray", "rotate", "banner", "watermark"]


def test_features_are_772_finite_numbers() -> None:
    features = _encode([make_image(1), make_image(2, (40, 300)), make_image(3, (20, 20))])

    assert features.shape == (3, DIM) == (3, 772)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert ENCODER.dim == DIM


def test_whole_image_is_resized_to_a_square() -> None:
    image = Image.new("RGB", (300, 100), (10, 20, 30))
    image.paste((250, 0, 0), (285, 0, 300, 100))

    prepared = ENCODER.prepare(image)

    assert prepared.shape == (SIZE, SIZE, 3)
    assert prepared[50, -2].tolist() == [250, 0, 0]
    assert prepared[50, 2].tolist() == [10, 20, 30]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=9),
)
def test_features_do_not_depend_on_the_batch(seed: int, count: int, sizes: list[int]) -> None:
    batch = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    whole = ENCODER.encode(batch)

    start = 0
    while start < count:
        size = sizes[start % len(sizes)]
        part = ENCODER.encode(batch[start : start + size])
        np.testing.assert_array_equal(part, whole[start : start + size])
        start += size


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), low=st.integers(0, 254), span=st.integers(1, 255))
def test_feature_parts_have_unit_norm_or_are_zero(seed: int, low: int, span: int) -> None:
    high = min(256, low + span + 1)
    pixels = np.random.default_rng(seed).integers(low, high, (1, SIZE, SIZE, 3), dtype=np.uint8)

    features = ENCODER.encode(pixels).astype(np.float64)[0]

    shape, color = np.linalg.norm(features[:576]), np.linalg.norm(features[576:])
    assert shape == pytest.approx(1, abs=1e-5) or shape == 0
    assert color == pytest.approx(0.6, abs=1e-5) or color == 0


@pytest.mark.parametrize("level", [0, 1, 127, 200, 255])
def test_flat_gray_image_has_zero_features(level: int) -> None:
    features = _encode([Image.new("RGB", (64, 48), (level, level, level))])

    assert not features.any()


def test_flat_color_has_color_features_only() -> None:
    gray, red, blue = _encode(
        [Image.new("RGB", (64, 48), color) for color in ((90,) * 3, (200, 10, 30), (9, 9, 99))]
    )

    assert not gray.any()
    assert not red[: 8 * 8 * 9].any()
    assert _unit(red[None])[0] @ _unit(blue[None])[0] < HOG_COLOR_THRESHOLD


def test_color_changes_features() -> None:
    image = make_image(4)
    red, green, blue = image.split()
    features = _unit(_encode([image, Image.merge("RGB", (blue, red, green))]))

    assert features[0] @ features[1] < HOG_COLOR_THRESHOLD


@pytest.mark.parametrize("edit", RECOGNIZED)
def test_perturbed_copy_is_nearest_to_its_original(edit: str) -> None:
    originals = [make_image(seed, (200, 150)) for seed in range(12)]
    copies = [perturb(image, edit, seed) for seed, image in enumerate(originals)]

    similarity = _unit(_encode(copies)) @ _unit(_encode(originals)).T

    assert similarity.argmax(axis=1).tolist() == list(range(12))


@pytest.mark.parametrize("edit", ["recompress", "resize", "brighten"])
def test_lightly_perturbed_copy_reaches_recommended_threshold(edit: str) -> None:
    originals = [make_image(seed, (200, 150)) for seed in range(12)]
    copies = [perturb(image, edit, seed) for seed, image in enumerate(originals)]

    similarity = _unit(_encode(copies)) @ _unit(_encode(originals)).T

    same = np.eye(12, dtype=bool)
    assert similarity[same].min() >= HOG_COLOR_THRESHOLD > similarity[~same].max()


def _encode(images: list[Image.Image]) -> NDArray[np.float32]:
    return ENCODER.encode(np.stack([ENCODER.prepare(image) for image in images]))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
