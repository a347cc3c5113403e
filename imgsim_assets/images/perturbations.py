"""Perturbed copies of images, as shops and re-uploaders edit them, to measure recall."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Perturbation = Callable[[Image.Image, random.Random], Image.Image]
# Edge of a collage of four panels, in pixels.
_SHEET = 480


def recompress(image: Image.Image, rng: random.Random) -> Image.Image:
    """JPEG at a quality of 30 to 60."""
    body = io.BytesIO()
    image.save(body, "JPEG", quality=rng.randint(30, 60))
    return Image.open(body).convert("RGB")


def resize(image: Image.Image, rng: random.Random) -> Image.Image:
    """Resized to 40 to 70 % of the width and height."""
    factor = rng.uniform(0.4, 0.7)
    size = (max(16, round(image.width * factor)), max(16, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR)


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random window of 80 % of the area."""
    return _window(image, 0.8, rng)


def brighten(image: Image.Image, rng: random.Random) -> Image.Image:
    """Brightness raised by 20 to 40 %."""
    return ImageEnhance.Brightness(image).enhance(rng.uniform(1.2, 1.4))


def gray(image: Image.Image, rng: random.Random) -> Image.Image:
    """Grayscale."""
    return ImageOps.grayscale(image).convert("RGB")


def rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    """Rotation by 2 to 4 degrees either way, the corners filled with white."""
    angle = rng.uniform(2, 4) * rng.choice((-1, 1))
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))


def banner(image: Image.Image, rng: random.Random) -> Image.Image:
    """A strip of text across the lowest eighth."""
    perturb = image.copy()
    draw = ImageDraw.Draw(perturb)
    height = max(8, image.height // 8)
    top = image.height - height
    color = tuple(rng.randint(0, 255) for _ in range(3))
    draw.rectangle((0, top, image.width, image.height), fill=color)
    text = f"SALE -{rng.randint(10, 70)} %"
    draw.text((image.width // 20, top), text, fill=(255, 255, 255), font_size=height * 3 // 4)
    return perturb


def watermark(image: Image.Image, rng: random.Random) -> Image.Image:
    """A half-transparent word across the middle."""
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    size = max(10, image.width // 8)
    center = (image.width // 2, image.height // 2)
    draw = ImageDraw.Draw(layer)
    draw.text(center, "SAMPLE", fill=(255, 255, 255, 110), font_size=size, anchor="mm")
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def flip(image: Image.Image, rng: random.Random) -> Image.Image:
    """Mirrored left to right."""
    return ImageOps.mirror(image)


def pad(image: Image.Image, rng: random.Random) -> Image.Image:
    """A white frame; width and height grow by a quarter."""
    width, height = round(image.width * 1.25), round(image.height * 1.25)
    padded = Image.new("RGB", (width, height), (255, 255, 255))
    padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return padded


def tight_crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random window of 60 % of the area."""
    return _window(image, 0.6, rng)


def border(image: Image.Image, rng: random.Random) -> Image.Image:
    """A colored line of 3 to 8 % of the longer edge around the image."""
    width = max(1, round(max(image.size) * rng.uniform(0.03, 0.08)))
    return ImageOps.expand(image, width, _color(rng))


def sticker(image: Image.Image, rng: random.Random) -> Image.Image:
    """A round sticker with a price in one of the corners, a third of the shorter edge wide."""
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    size = max(4, min(image.size) // 3)
    left = rng.choice((0, max(0, image.width - size)))
    top = rng.choice((0, max(0, image.height - size)))
    draw.ellipse((left, top, left + size, top + size), fill=_color(rng))
    draw.text(
        (left + size // 2, top + size // 2),
        f"-{rng.randint(10, 70)}%",
        fill=(255, 255, 255),
        font_size=max(4, size // 3),
        anchor="mm",
    )
    return copy


def text_overlay(image: Image.Image, rng: random.Random) -> Image.Image:
    """Three lines of outlined text, as on posts of social networks."""
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    for line, text in enumerate(("LIMITED OFFER", "two for one", "only this week")):
        draw.text(
            (rng.randint(0, max(1, image.width // 4)), image.height * (line * 3 + 1) // 10),
            text,
            fill=_color(rng),
            font_size=max(6, image.width // rng.randint(8, 11)),
            stroke_width=max(1, image.width // 150),
            stroke_fill=(0, 0, 0),
        )
    return copy


def screenshot(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image in the window of an app: title bar, lines of text below, a row of buttons."""
    dark = rng.random() < 0.4
    ground, ink = ((28, 28, 32), (150, 150, 155)) if dark else ((248, 248, 250), (170, 170, 175))
    width, height = 360, 640
    screen = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, width, 24), fill=(0, 0, 0))
    draw.text((10, 6), f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}", fill=(255, 255, 255))
    draw.rectangle((0, 24, width, 72), fill=_color(rng))
    draw.text((16, 34), "Gallery", fill=(255, 255, 255), font_size=22)
    shown = ImageOps.contain(image, (width - 24, 380))
    screen.paste(shown, ((width - shown.width) // 2, 84))
    for top in range(84 + shown.height + 14, height - 70, 20):
        draw.rectangle((16, top, rng.randint(120, width - 20), top + 9), fill=ink)
    draw.rectangle((0, height - 56, width, height), fill=(225, 225, 228))
    for left in range(36, width, 88):
        draw.ellipse((left, height - 42, left + 28, height - 14), fill=(110, 110, 115))
    return screen


def collage(image: Image.Image, rng: random.Random) -> Image.Image:
    """One of four panels; the three others show colored shapes."""
    panels = [image, *(_shapes(rng) for _ in range(3))]
    rng.shuffle(panels)
    sheet = Image.new("RGB", (_SHEET, _SHEET), (255, 255, 255))
    half = _SHEET // 2
    for number, panel in enumerate(panels):
        fitted = ImageOps.fit(panel, (half - 8, half - 8))
        sheet.paste(fitted, (number % 2 * half + 4, number // 2 * half + 4))
    return sheet


def photograph(image: Image.Image, rng: random.Random) -> Image.Image:
    """A photograph of the image on a screen: in perspective, blurred, in another light."""
    width, height = image.size
    corners = [
        (x + rng.uniform(-0.07, 0.07) * width, y + rng.uniform(-0.07, 0.07) * height)
        for x, y in ((0, 0), (width, 0), (width, height), (0, height))
    ]
    ground = tuple(rng.randint(20, 80) for _ in range(3))
    tilted = image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        _perspective(corners, image.size),
        Image.Resampling.BILINEAR,
        fillcolor=ground,
    )
    blurred = tilted.filter(ImageFilter.GaussianBlur(max(0.8, max(image.size) / 250)))
    light = ImageEnhance.Brightness(blurred).enhance(rng.uniform(0.85, 1.15))
    return recompress(ImageEnhance.Color(light).enhance(rng.uniform(0.8, 1.1)), rng)


def _window(image: Image.Image, area: float, rng: random.Random) -> Image.Image:
    """A random window of a fraction of the area."""
    scale = area**0.5
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left = rng.randint(0, image.width - width)
    top = rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _color(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 220), rng.randint(0, 220), rng.randint(0, 220)


def _shapes(rng: random.Random) -> Image.Image:
    """A panel with a gradient and some shapes on it."""
    size = _SHEET // 2
    ground = Image.linear_gradient("L").resize((size, size))
    panel = ImageOps.colorize(ground, _color(rng), _color(rng))
    draw = ImageDraw.Draw(panel)
    for _ in range(6):
        left, top = rng.randint(0, size), rng.randint(0, size)
        box = (left, top, left + rng.randint(20, size // 2), top + rng.randint(20, size // 2))
        shape = rng.choice((draw.ellipse, draw.rectangle))
        shape(box, fill=_color(rng))
    return panel


def _perspective(
    corners: Sequence[tuple[float, float]], size: tuple[int, int]
) -> tuple[float, ...]:
    """The coefficients that show the four corners of the image at other points."""
    width, height = size
    rows: list[tuple[float, ...]] = []
    values: list[float] = []
    sources = ((0, 0), (width, 0), (width, height), (0, height))
    for (x, y), (u, v) in zip(corners, sources, strict=True):
        rows.append((x, y, 1, 0, 0, 0, -u * x, -u * y))
        rows.append((0, 0, 0, x, y, 1, -v * x, -v * y))
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows, dtype=float), np.array(values, float)).tolist())


_ALL = (
    recompress,
    resize,
    crop,
    tight_crop,
    brighten,
    gray,
    rotate,
    banner,
    watermark,
    text_overlay,
    sticker,
    border,
    flip,
    pad,
    photograph,
    screenshot,
    collage,
)
PERTURBATIONS: Mapping[str, Perturbation] = {each.__name__: each for each in _ALL}


def perturb(image: Image.Image, name: str, seed: int) -> Image.Image:
    """Apply one of PERTURBATIONS to an image; the same seed gives the same copy."""
    return PERTURBATIONS[name](image.convert("RGB"), random.Random(seed))
