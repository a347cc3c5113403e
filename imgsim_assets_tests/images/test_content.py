"""Which images are blank, and which are too small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from imgsim_assets.images.content import ContentRule, is_blank
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets_tests.support.images import encoded

COLORS = [(255, 255, 255), (0, 0, 0), (13, 200, 77), (128, 127, 129)]
RULE = ContentRule(keeps_blank=False, min_side=16)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 5}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"quality": 50}),
        ("GIF", {}),
    ],
)
def test_single_color_is_blank_in_every_format(
    color: tuple[int, int, int], kind: str, options: dict[str, object]
) -> None:
    image = decode(encoded(Image.new("RGB", (301, 203), color), kind, **options))

    assert is_blank(image)


def test_single_color_stays_blank_when_it_is_saved_and_resized_often() -> None:
    image = Image.new("RGB", (640, 480), (201, 64, 90))
    for side in (400, 333, 250, 801):
        image = decode(encoded(image.resize((side, side)), "JPEG", quality=40))

    assert is_blank(image)


def test_faint_noise_is_blank_and_grain_is_not() -> None:
    noise = np.random.default_rng(0).integers(-4, 5, (200, 200, 3))

    assert is_blank(Image.fromarray((128 + noise).astype(np.uint8)))
    assert not is_blank(Image.fromarray((128 + 3 * noise).astype(np.uint8)))


@pytest.mark.parametrize(
    ("mark", "level"),
    [((500, 500, 501, 501), 0), ((999, 999, 999, 999), 200), ((0, 40, 999, 40), 240)],
    ids=["small dot", "last pixel", "faint line"],
)
def test_white_page_with_one_small_mark_is_not_blank(
    mark: tuple[int, int, int, int], level: int
) -> None:
    page = Image.new("RGB", (1000, 1000), "white")
    ImageDraw.Draw(page).rectangle(mark, fill=(level,) * 3)

    assert not is_blank(page)


def test_invisible_image_is_blank() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 4)).astype(np.uint8)
    colors[..., 3] = 0

    assert is_blank(decode(encoded(Image.fromarray(colors), "PNG")))


def test_rule_names_the_setting() -> None:
    with pytest.raises(ImageError, match="blank: a single color; 'blank: keep' of the encoder"):
        RULE.require_content(Image.new("RGB", (64, 64)))
    with pytest.raises(ImageError, match="too_small: 15 x 400 pixels; 'min_side' of the encoder"):
        RULE.require_size(15, 400)
    RULE.require_size(16, 16)
    ContentRule(keeps_blank=True, min_side=1).require_content(Image.new("RGB", (64, 64)))
