"""The training images in memory, and the batches of plain and edited ones."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.image_split import Part, image_names
from training.copy_encoder.edits import edited

# The longer edge of an image in memory.
STORED_SIDE = 224
_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def read_images(archives: Sequence[Path], part: Part | None) -> list[Image.Image]:
    """The images of one part of some archives, or all of them, reduced to STORED_SIDE."""
    images = []
    for archive in archives:
        parts: list[Part] = ["tuning", "reporting"] if part is None else [part]
        names = sorted(name for each in parts for name in image_names(archive, each))
        with tarfile.open(archive) as opened:
            for name in names:
                file = opened.extractfile(name)
                if file is not None:
                    images.append(_reduced(file.read()))
    return images


def _reduced(data: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(data))
    opened.draft("RGB", (STORED_SIDE, STORED_SIDE))
    image = opened.convert("RGB")
    image.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.BILINEAR)
    return image


def stretched(image: Image.Image, side: int) -> np.ndarray:
    """The whole image as (side, side, 3) uint8."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))


def to_input(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Stretched images as the network's input (n, 3, side, side)."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)
    return ((batch - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)


def batch_of_step(
    images: Sequence[Image.Image],
    order: Callable[[int], Sequence[int]],
    step: int,
    side: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain images of a step and their edited copies, two inputs of as many images.

    Args:
        images: all images.
        order: the numbers of the images of a step.
        step: number of the step.
        side: of the inputs, in pixels.
        seed: decides the edits.
    """
    plain, copies = [], []
    for number in order(step):
        rng = random.Random(f"{seed} {step} {number}")
        plain.append(stretched(images[number], side))
        copies.append(stretched(edited(images[number], partial(rng.choice, images), rng), side))
    return to_input(plain), to_input(copies)
