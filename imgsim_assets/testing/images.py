"""Generated images: seeded, textured and distinct."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageDraw


def make_image(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """An RGB image of random shapes; the same seed gives the same pixels.

    Args:
        seed: images of different seeds do not look alike.
        size: width and height in pixels.
    """
    rng = random.Random(seed)
    width, height = size
    image = Image.new("RGB", size, tuple(rng.randint(0, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        box = sorted(rng.randint(0, width) for _ in range(2))
        rows = sorted(rng.randint(0, height) for _ in range(2))
        corners = (box[0], rows[0], box[1] + 8, rows[1] + 8)
        color = tuple(rng.randint(0, 255) for _ in range(3))
        draw_shape = rng.choice((draw.rectangle, draw.ellipse))
        draw_shape(corners, fill=color)
    return image


def image_bytes(seed: int, size: tuple[int, int] = (160, 120), *, quality: int = 90) -> bytes:
    """A seeded image as JPEG bytes; another `quality` gives a near duplicate."""
    body = io.BytesIO()
    make_image(seed, size).save(body, "JPEG", quality=quality)
    return body.getvalue()
