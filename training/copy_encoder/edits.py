"""Strong random edits of training images, as re-uploaders, shops and phones make them."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

_WORDS = ("SALE", "NEW", "free shipping", "2 for 1", "only today", "-40 %", "shop.example", "photo")


def edited(
    image: Image.Image, others: Callable[[], Image.Image], rng: random.Random
) -> Image.Image:
    """A strongly edited copy.

    Args:
        image: the original, RGB.
        others: gives another image, for collages.
        rng: decides everything.
    """
    for probability, edit in (
        (0.5, _crop),
        (0.3, _mirror),
        (0.08, _quarter_turn),
        (0.25, _rotate),
        (0.2, _perspective),
        (0.3, _write),
        (0.2, _banner),
        (0.5, _colors),
        (0.15, _gray),
    ):
        if rng.random() < probability:
            image = edit(image, rng)
    surroundings = rng.random()
    if surroundings < 0.12:
        image = _pad(image, rng)
    elif surroundings < 0.32:
        image = _screenshot(image, rng)
    elif surroundings < 0.57:
        image = _collage(image, others, rng)
    for probability, edit in ((0.2, _blur), (0.25, _shrink), (0.5, _jpeg), (0.15, _noise)):
        if rng.random() < probability:
            image = edit(image, rng)
    return image


def _crop(image: Image.Image, rng: random.Random) -> Image.Image:
    area, aspect = rng.uniform(0.45, 0.95), math.exp(rng.uniform(-0.25, 0.25))
    width = min(image.width, max(8, round(image.width * math.sqrt(area * aspect))))
    height = min(image.height, max(8, round(image.height * math.sqrt(area / aspect))))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.mirror(image)


def _quarter_turn(image: Image.Image, rng: random.Random) -> Image.Image:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(rng.choice(turns))


def _rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    ground = rng.choice(((255, 255, 255), (0, 0, 0), _color(rng)))
    angle = rng.uniform(-15, 15)
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=ground)


def _perspective(image: Image.Image, rng: random.Random) -> Image.Image:
    width, height = image.size
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    moved = [
        (x + rng.uniform(-0.1, 0.1) * width, y + rng.uniform(-0.1, 0.1) * height)
        for x, y in corners
    ]
    rows, values = [], []
    for (x, y), (to_x, to_y) in zip(corners, moved, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -to_x * x, -to_x * y])
        rows.append([0, 0, 0, x, y, 1, -to_y * x, -to_y * y])
        values += [to_x, to_y]
    data = np.linalg.solve(np.array(rows, float), np.array(values, float)).tolist()
    return image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        data,
        Image.Resampling.BILINEAR,
        fillcolor=_color(rng),
    )


def _write(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 4)):
        at = (rng.uniform(0, 0.6) * image.width, rng.uniform(0, 0.9) * image.height)
        size = max(8, round(image.width * rng.uniform(0.07, 0.2)))
        edge = _color(rng) if rng.random() < 0.5 else None
        draw.text(
            at,
            rng.choice(_WORDS),
            fill=_color(rng),
            font_size=size,
            stroke_width=int(edge is not None),
            stroke_fill=edge,
        )
    return image


def _banner(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    height = max(8, round(image.height * rng.uniform(0.08, 0.2)))
    top = rng.choice((0, image.height - height))
    draw.rectangle((0, top, image.width, top + height), fill=_color(rng))
    draw.text((4, top), rng.choice(_WORDS), fill=_color(rng), font_size=max(6, height * 2 // 3))
    return image


def _colors(image: Image.Image, rng: random.Random) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.5))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.3))
    return ImageEnhance.Color(image).enhance(rng.uniform(0.4, 1.6))


def _gray(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _pad(image: Image.Image, rng: random.Random) -> Image.Image:
    border = [round(max(image.size) * rng.uniform(0, 0.25)) for _ in range(2)]
    ground = rng.choice(((255, 255, 255), (0, 0, 0), _color(rng)))
    return ImageOps.expand(image, (border[0], border[1]), ground)


def _screenshot(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image on a page of a narrow screen, with bars, lines of text and buttons."""
    width = 160
    height = round(width * rng.uniform(1.3, 2.1))
    is_dark = rng.random() < 0.4
    page = Image.new("RGB", (width, height), (24, 25, 28) if is_dark else (248, 248, 248))
    draw = ImageDraw.Draw(page)
    bar = rng.randint(8, 40)
    draw.rectangle((0, 0, width, bar), fill=_color(rng))
    draw.text((6, bar // 3), rng.choice(_WORDS), fill=_color(rng), font_size=max(6, bar // 2))
    shown_width = round(width * rng.uniform(0.7, 1.0))
    shown_height = min(round(image.height * shown_width / image.width), round(height * 0.7))
    left, top = rng.randint(0, width - shown_width), bar + rng.randint(0, 14)
    page.paste(image.resize((shown_width, shown_height)), (left, top))
    line = top + shown_height + rng.randint(4, 12)
    while line < height - 12:
        draw.rectangle((8, line, rng.randint(40, width - 8), line + 4), fill=(150, 150, 150))
        line += rng.randint(8, 14)
    for button in range(rng.randint(0, 4)):
        x = 12 + button * 36
        draw.ellipse((x, height - 14, x + 10, height - 4), fill=_color(rng))
    return page


def _collage(
    image: Image.Image, others: Callable[[], Image.Image], rng: random.Random
) -> Image.Image:
    """The image beside one other, or one of four."""
    columns, rows = rng.choice(((2, 1), (1, 2), (2, 2), (2, 2), (2, 2)))
    side, gap = 112, rng.randint(0, 4)
    ground = rng.choice(((255, 255, 255), (0, 0, 0), _color(rng)))
    page = Image.new("RGB", (columns * side, rows * side), ground)
    own = rng.randrange(columns * rows)
    fitted = ImageOps.fit if rng.random() < 0.7 else ImageOps.pad
    for place in range(columns * rows):
        shown = fitted(image if place == own else others(), (side - gap, side - gap))
        page.paste(shown, (place % columns * side + gap // 2, place // columns * side + gap // 2))
    return page


def _blur(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))


def _shrink(image: Image.Image, rng: random.Random) -> Image.Image:
    scale = rng.uniform(40, 120) / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    body = io.BytesIO()
    image.save(body, "JPEG", quality=rng.randint(10, 60))
    return Image.open(body).convert("RGB")


def _noise(image: Image.Image, rng: random.Random) -> Image.Image:
    generator = np.random.default_rng(rng.getrandbits(32))
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + generator.normal(0, rng.uniform(3, 12), pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _color(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
