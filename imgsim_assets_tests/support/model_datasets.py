"""Images for models: a folder of seeded files, and the white and black noise of a tutorial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from imgsim_assets_tests.support.images import jpeg


def folder_of(path: Path, seeds: range) -> Path:
    """A folder with a JPEG a seed: 000.jpg, 001.jpg, ..."""
    path.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (path / f"{seed:03d}.jpg").write_bytes(jpeg(seed))
    return path


def noisy(mean: int, seed: int, side: int = 64) -> Image.Image:
    """A nearly white (high mean) or nearly black (low mean) image of noise."""
    chance = np.random.default_rng(seed)
    pixels = chance.normal(mean, 12, (side, side, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)
