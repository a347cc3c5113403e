"""Images with many corners, and edits of them."""

from __future__ import annotations

import io
import random
from functools import cache

from PIL import Image, ImageDraw, ImageOps


@cache
def scene(seed: int, size: tuple[int, int] = (480, 360), shapes: int = 150) -> Image.Image:
    """An image of small random shapes; the same seed gives the same pixels."""
    rng = random.Random(seed)
    width, height = size
    image = Image.new("RGB", size, tuple(rng.randint(60, 200) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(shapes):
        x, y, edge = rng.randint(0, width), rng.randint(0, height), rng.randint(6, 48)
        color = tuple(rng.randint(0, 255) for _ in range(3))
        box = (x, y, x + edge, y + rng.randint(6, 48))
        rng.choice((draw.rectangle, draw.ellipse))(box, fill=color)
    return image


def object_on(background: Image.Image, seed: int) -> Image.Image:
    """A large plain object in the middle of a background; each seed has its form and shade."""
    rng = random.Random(seed)
    image = background.copy()
    width, height = image.size
    corners = [
        (width * (0.5 + rng.uniform(0.25, 0.4) * x), height * (0.5 + rng.uniform(0.25, 0.4) * y))
        for x, y in ((-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0))
    ]
    shade = 20 + seed % 8 * 29
    ImageDraw.Draw(image).polygon(corners, fill=(shade, shade, shade))
    return image


def stripes(offset: int, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """A pattern that repeats every 24 pixels."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for x in range(-24, size[0], 24):
        for y in range(-24, size[1], 24):
            at = (x + offset, y + offset // 2)
            draw.rectangle((*at, at[0] + 11, at[1] + 11), fill=(30, 60, 120))
    return image


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    body = io.BytesIO()
    image.save(body, "PNG")
    return body.getvalue()


def jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """The image as a JPEG file."""
    body = io.BytesIO()
    image.save(body, "JPEG", quality=quality)
    return body.getvalue()


def painted(image: Image.Image, color: str) -> Image.Image:
    """The image in the shades of one color, as a product that is sold in several colors."""
    return ImageOps.colorize(image.convert("L"), "black", "white", mid=color)
