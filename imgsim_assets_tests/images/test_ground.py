"""The ground behind transparency: images show, and cutouts look like their photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from imgsim_assets.encoders.hog_color import HogColor
from imgsim_assets.images.decode import decode
from imgsim_assets_tests.support.images import encoded

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
WORDMARKS = ("Solana", "HEXAGON", "north & co", "m2")


def wordmark(text: str, gray: int, size: tuple[int, int] = (360, 160)) -> Image.Image:
    """A text of one gray on transparency."""
    image = Image.new("RGBA", size, (gray, gray, gray, 0))
    font = ImageFont.load_default(64)
    ImageDraw.Draw(image).text((16, 40), text, fill=(gray, gray, gray, 255), font=font)
    return image


def white_garment() -> Image.Image:
    """A cutout in near white, with folds and a shaded outline."""
    alpha = Image.new("L", (300, 400), 0)
    ImageDraw.Draw(alpha).polygon(
        [(60, 40), (240, 40), (280, 160), (220, 380), (60, 380)], fill=255
    )
    folds = 8 * np.sin(np.arange(300) / 9)[None, :] + np.zeros((400, 1))
    outline = (255.0 - np.asarray(alpha.filter(ImageFilter.GaussianBlur(6)))) / 6
    gray = Image.fromarray((244 + folds - outline).clip(0, 255).astype(np.uint8))
    return Image.merge("RGBA", (gray, gray, gray, alpha))


@pytest.mark.parametrize("gray", [255, 240, 230])
def test_white_logo_shows_on_black(gray: int) -> None:
    image = decode(encoded(wordmark("Solana", gray), "PNG"))

    assert image.getpixel((0, 0)) == BLACK
    assert image.getextrema() == ((0, gray),) * 3


@pytest.mark.parametrize("gray", [220, 128, 0])
def test_any_darker_logo_shows_on_white(gray: int) -> None:
    image = decode(encoded(wordmark("Solana", gray), "PNG"))

    assert image.getpixel((0, 0)) == WHITE
    assert image.getextrema() == ((gray, 255),) * 3


def test_four_white_wordmarks_are_told_apart() -> None:
    images = [decode(encoded(wordmark(text, 255), "PNG")) for text in WORDMARKS]
    encoder = HogColor()
    features = encoder.encode(np.stack([encoder.prepare(image) for image in images]))
    vectors = features / np.linalg.norm(features, axis=1, keepdims=True)

    cosines = (vectors @ vectors.T)[np.triu_indices(len(images), 1)]

    assert len({image.tobytes() for image in images}) == len(images)
    assert cosines.max() < 0.85


def test_white_garment_stays_on_white_like_its_photograph() -> None:
    image = decode(encoded(white_garment(), "PNG"))

    assert image.getpixel((0, 0)) == WHITE


def test_small_colored_mark_does_not_hide_a_white_wordmark() -> None:
    stored = wordmark("Solana", 255)
    ImageDraw.Draw(stored).ellipse((300, 20, 320, 40), fill=(220, 30, 30, 255))

    image = decode(encoded(stored, "PNG"))

    assert image.getpixel((0, 0)) == BLACK
    assert image.getpixel((310, 30)) == (220, 30, 30)


def test_page_with_transparent_corners_stays_on_white() -> None:
    page = Image.new("RGB", (300, 400), "white")
    for row in range(40, 360, 20):
        ImageDraw.Draw(page).text((30, row), "Size chart: S M L XL", fill=0)
    corners = Image.new("L", page.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 299, 399), 30, fill=255)
    page.putalpha(corners)

    assert decode(encoded(page, "PNG")).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(360, 160), (1400, 900)])
def test_ground_does_not_depend_on_format_and_size(kind: str, size: tuple[int, int]) -> None:
    stored = wordmark("Solana", 255).resize(size)

    assert decode(encoded(stored, kind, **_lossless(kind))).getpixel((0, 0)) == BLACK


def test_white_logo_of_a_palette_shows_on_black() -> None:
    stored = Image.new("P", (120, 60), 0)
    stored.putpalette([255, 255, 255, 255, 255, 255])
    ImageDraw.Draw(stored).text((10, 20), "Solana", fill=1)

    for kind in ("PNG", "GIF"):
        image = decode(encoded(stored, kind, transparency=0))
        assert image.getextrema() == ((0, 255),) * 3


def test_white_logo_in_16_bits_shows_on_black() -> None:
    values = np.zeros((60, 120), np.uint16)
    values[20:40, 30:90] = 65_535

    image = decode(encoded(Image.fromarray(values), "PNG", transparency=0))

    assert image.getpixel((0, 0)) == BLACK
    assert image.getpixel((60, 30)) == WHITE


def _lossless(kind: str) -> dict[str, Any]:
    return {"lossless": True, "exact": True} if kind == "WEBP" else {}
