from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from imgsim_assets.images.perturbations import PERTURBATIONS, perturb
from imgsim_assets_tests.support.images import make_image

SEEDED = sorted(set(PERTURBATIONS) - {"gray", "watermark", "flip", "pad"})


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_same_seed_gives_the_same_copy(name: str) -> None:
    first = perturb(make_image(1), name, 7)

    assert first.mode == "RGB"
    assert first.size == perturb(make_image(1), name, 7).size
    assert first.tobytes() == perturb(make_image(1), name, 7).tobytes()


@pytest.mark.parametrize("name", SEEDED)
def test_other_seeds_give_other_copies(name: str) -> None:
    copies = [perturb(make_image(1), name, seed) for seed in range(12)]

    assert len({(copy.size, copy.tobytes()) for copy in copies}) > 1


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_copy_differs_and_original_is_unchanged(name: str) -> None:
    original = make_image(1)
    before = original.tobytes()

    copy = PERTURBATIONS[name](original, random.Random(3))

    assert original.tobytes() == before
    assert (copy.size, copy.tobytes()) != (original.size, before)


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1"])
def test_images_of_every_mode_can_be_perturbed(name: str, mode: str) -> None:
    assert perturb(make_image(1).convert(mode), name, 1).mode == "RGB"


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (400, 1), (1, 400)])
def test_tiny_and_narrow_images_can_be_perturbed(name: str, size: tuple[int, int]) -> None:
    copy = perturb(Image.new("RGB", size, (90, 120, 150)), name, 1)

    assert copy.width > 0
    assert copy.height > 0


def test_resize_keeps_40_to_70_percent_of_each_edge() -> None:
    for seed in range(20):
        copy = perturb(make_image(1, (200, 100)), "resize", seed)
        assert 80 <= copy.width <= 140
        assert copy.height == pytest.approx(copy.width / 2, abs=1)


def test_crop_keeps_80_percent_of_the_area() -> None:
    original = make_image(1, (160, 120))

    copy = perturb(original, "crop", 4)

    assert copy.width * copy.height == pytest.approx(0.8 * 160 * 120, rel=0.02)
    assert any(
        original.crop((left, top, left + copy.width, top + copy.height)).tobytes() == copy.tobytes()
        for left in range(160 - copy.width + 1)
        for top in range(120 - copy.height + 1)
    )


def test_tight_crop_keeps_60_percent_of_the_area() -> None:
    copy = perturb(make_image(1, (160, 120)), "tight_crop", 4)

    assert copy.width * copy.height == pytest.approx(0.6 * 160 * 120, rel=0.02)


def test_border_surrounds_the_image_with_one_color() -> None:
    original = make_image(1, (160, 120))

    copy = perturb(original, "border", 2)

    width = (copy.width - 160) // 2
    assert 5 <= width <= 13
    assert copy.crop((width, width, width + 160, width + 120)).tobytes() == original.tobytes()
    assert len(np.unique(pixels(copy)[:width].reshape(-1, 3), axis=0)) == 1


def test_sticker_covers_one_corner_only() -> None:
    original = Image.new("RGB", (160, 120), (250, 250, 250))

    changed = (pixels(perturb(original, "sticker", 1)) != pixels(original)).any(axis=-1)

    tops, lefts = (slice(45), slice(75, 120)), (slice(45), slice(115, 160))
    corners = [changed[top, left].any() for top in tops for left in lefts]
    assert sum(corners) == 1
    assert 0.04 < changed.mean() < 0.12


@pytest.mark.parametrize("name", ["screenshot", "collage"])
def test_original_is_part_of_a_larger_page(name: str) -> None:
    pages = [
        pixels(perturb(Image.new("RGB", (300, 300), (1, 2, 3)), name, seed)) for seed in range(4)
    ]

    for page in pages:
        share = (page == (1, 2, 3)).all(axis=-1).mean()
        assert 0.15 < share < 0.6


def test_photograph_is_tilted_and_blurred() -> None:
    lines = Image.new("RGB", (200, 200), (255, 255, 255))
    lines.paste((0, 0, 0), (100, 0, 102, 200))

    copy = pixels(perturb(lines, "photograph", 3)).astype(int).sum(axis=2)

    middle = copy[40:160, 60:140]
    assert middle.min() > 100
    assert np.ptp(middle.argmin(axis=1)) > 0


def test_flip_is_its_own_inverse() -> None:
    original = make_image(1)

    assert perturb(perturb(original, "flip", 1), "flip", 2).tobytes() == original.tobytes()
    assert pixels(perturb(original, "flip", 1))[:, ::-1].tobytes() == original.tobytes()


def test_pad_adds_a_white_frame() -> None:
    original = make_image(1, (160, 120))

    copy = perturb(original, "pad", 1)

    assert copy.size == (200, 150)
    assert copy.crop((20, 15, 180, 135)).tobytes() == original.tobytes()
    assert (pixels(copy)[:15] == 255).all()
    assert (pixels(copy)[:, -20:] == 255).all()


def test_gray_removes_colors() -> None:
    values = pixels(perturb(make_image(1), "gray", 1))

    assert (values == values[..., :1]).all()
    assert values.std() > 5


def test_brighten_adds_20_to_40_percent() -> None:
    dark = Image.new("RGB", (16, 16), (100, 100, 100))

    for seed in range(10):
        assert 119 <= pixels(perturb(dark, "brighten", seed)).mean() <= 140


def test_rotate_has_white_corners_and_keeps_the_middle() -> None:
    original = Image.new("RGB", (100, 100), (10, 20, 30))

    for seed in range(6):
        values = pixels(perturb(original, "rotate", seed))
        assert (values[50, 50] == (10, 20, 30)).all()
        assert any((values[y, x] == 255).all() for y in (0, 99) for x in (0, 99))


def test_banner_covers_the_lowest_eighth_only() -> None:
    original = make_image(1, (160, 120))

    copy = pixels(perturb(original, "banner", 5))

    assert (copy[:105] == pixels(original)[:105]).all()
    assert (copy[105:] != pixels(original)[105:]).any()
    assert len(np.unique(copy[105:].reshape(-1, 3), axis=0)) > 1


def test_watermark_covers_the_middle() -> None:
    original = Image.new("RGB", (160, 120), (20, 40, 60))

    changed = (pixels(perturb(original, "watermark", 1)) != pixels(original)).any(axis=-1)

    assert changed[50:70, 60:100].any()
    assert not changed[:40].any()
    assert not changed[80:].any()


def test_recompressed_copy_is_close_but_not_equal() -> None:
    original = make_image(1)

    gap = np.abs(
        pixels(perturb(original, "recompress", 1)).astype(float) - pixels(original).astype(float)
    )

    assert 0 < gap.mean() < 15


def test_unknown_perturbation_raises() -> None:
    with pytest.raises(KeyError, match="sepia"):
        perturb(make_image(1), "sepia", 1)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)
