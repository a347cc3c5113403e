"""Different images that encoders hardly tell apart: pages of text, wordmarks, single colors.

The images are generated: twelve of each kind, all with another content.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.image_pool import embed
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.decode import decode

_COUNT = 12
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def table(settings: Sequence[EncoderSettings]) -> Iterator[str]:
    """The lowest and highest cosine of different images of each kind, as Markdown."""
    names = [f"`{each.name}`" for each in settings]
    yield f"| different images | {' | '.join(names)} |"
    yield f"| {' | '.join(['---'] * (len(names) + 1))} |"
    encoders = [load_encoder(each) for each in settings]
    for kind, draw in KINDS.items():
        images = [_decoded(draw(random.Random(seed))) for seed in range(_COUNT)]
        ranges = []
        for encoder in encoders:
            vectors = embed(encoder, images)
            pairs = (vectors @ vectors.T)[np.triu_indices(_COUNT, k=1)]
            ranges.append(f"{pairs.min():.3f} to {pairs.max():.3f}")
        yield f"| {kind} | {' | '.join(ranges)} |"


def page(rng: random.Random) -> Image.Image:
    """A page of text."""
    image = Image.new("RGB", (620, 877), "white")
    draw = ImageDraw.Draw(image)
    for top in range(60, 800, 22):
        line = " ".join(_word(rng, rng.randint(2, 9)) for _ in range(12))
        draw.text((60, top), line[: rng.randint(50, 78)], fill="black", font_size=13)
    return image


def wordmark(rng: random.Random) -> Image.Image:
    """A black word on white."""
    image = Image.new("RGB", (400, 200), "white")
    ImageDraw.Draw(image).text((200, 100), _word(rng, 7), fill="black", font_size=72, anchor="mm")
    return image


def white_wordmark(rng: random.Random) -> Image.Image:
    """A white word on a transparent ground."""
    image = Image.new("RGBA", (400, 200), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    draw.text((200, 100), _word(rng, 7), fill=(255, 255, 255, 255), font_size=72, anchor="mm")
    return image


def color(rng: random.Random) -> Image.Image:
    """A single color."""
    return Image.new("RGB", (300, 300), tuple(rng.randint(0, 255) for _ in range(3)))


def chart(rng: random.Random) -> Image.Image:
    """A bar chart."""
    image = Image.new("RGB", (500, 300), "white")
    draw = ImageDraw.Draw(image)
    draw.line((40, 20, 40, 270, 480, 270), fill="black", width=2)
    for left in range(60, 470, 50):
        draw.rectangle((left, rng.randint(40, 250), left + 32, 269), fill=(70, 110, 190))
    return image


def drawing(rng: random.Random) -> Image.Image:
    """A line drawing of six shapes."""
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        for draw_shape in (draw.ellipse, draw.rectangle):
            left, top = rng.randint(20, 260), rng.randint(20, 260)
            box = (left, top, left + rng.randint(40, 120), top + rng.randint(40, 120))
            draw_shape(box, outline="black", width=3)
    return image


def form(rng: random.Random) -> Image.Image:
    """A printed form, filled in."""
    printed = random.Random("form")
    image = Image.new("RGB", (620, 877), "white")
    draw = ImageDraw.Draw(image)
    draw.text((60, 40), "Application", fill="black", font_size=32)
    for top in range(110, 820, 60):
        draw.text((60, top), _word(printed, 12), fill="black", font_size=16)
        draw.rectangle((220, top - 8, 560, top + 30), outline="black", width=2)
        draw.text((230, top), _word(rng, rng.randint(5, 18)), fill=(30, 40, 140), font_size=20)
    return image


KINDS: dict[str, Callable[[random.Random], Image.Image]] = {
    "pages of text": page,
    "black wordmarks on white": wordmark,
    "white wordmarks on transparency": white_wordmark,
    "single colors": color,
    "bar charts": chart,
    "line drawings of a few shapes": drawing,
    "filled copies of one printed form": form,
}


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(length))


def _decoded(image: Image.Image) -> Image.Image:
    body = io.BytesIO()
    image.save(body, "PNG")
    return decode(body.getvalue())
