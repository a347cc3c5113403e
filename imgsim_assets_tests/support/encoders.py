"""An encoder for tests, named by `factory`; it writes a line for each image to a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from imgsim_assets.encoders.probe import probe_images

# Environment variable: file to which the encoder writes a line per image.
COUNTER = "IMGSIM_TEST_ENCODED"


class ThumbnailEncoder:
    """The pixels of an image's 8 x 8 thumbnail; needs no weights."""

    dim = 8 * 8 * 3

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        counter = os.environ.get(COUNTER)
        if counter:
            probes = [self.prepare(image) for image in probe_images()]
            images = [row for row in batch if not any(np.array_equal(row, p) for p in probes)]
            with Path(counter).open("a") as file:
                file.write("x\n" * len(images))
        return batch.reshape(len(batch), -1) - 127.5


def thumbnail() -> ThumbnailEncoder:
    return ThumbnailEncoder()


def encoded_count(path: Path) -> int:
    """The number of images that were encoded."""
    return len(path.read_text().splitlines()) if path.exists() else 0
