"""Perturbed copies of images, as shops and re-uploaders edit them, to measure recall."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Perturbation = Callable[[Image.Image, random.Random], Image.Image]


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
    scale = 0.8**0.5
    width, height = round(image.width * scale), round(image.height * scale)
    left = rng.randint(0, image.width - width)
    top = rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


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


_ALL = (recompress, resize, crop, brighten, gray, rotate, banner, watermark, flip, pad)
PERTURBATIONS: Mapping[str, Perturbation] = {each.__name__: each for each in _ALL}


def perturb(image: Image.Image, name: str, seed: int) -> Image.Image:
    """Apply one of PERTURBATIONS to an image; the same seed gives the same copy."""
    return PERTURBATIONS[name](image.convert("RGB"), random.Random(seed))
