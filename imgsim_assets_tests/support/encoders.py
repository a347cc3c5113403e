"""Encoders for tests, to be named by `factory`; each call leaves a line in a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

# Where the counting encoder writes, one line an image it encodes.
COUNTER = "IMGSIM_TEST_ENCODED"


class ThumbnailEncoder:
    """An image as its own 8 x 8 thumbnail: tiny, weight-free, and sensible."""

    dim = 8 * 8 * 3

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        counter = os.environ.get(COUNTER)
        if counter:
            with Path(counter).open("a") as file:
                file.write("x\n" * len(batch))
        return batch.reshape(len(batch), -1) - 127.5


def thumbnail() -> ThumbnailEncoder:
    return ThumbnailEncoder()


def encoded_count(path: Path) -> int:
    """How many images the counting encoder was given."""
    return len(path.read_text().splitlines()) if path.exists() else 0
