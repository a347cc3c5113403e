"""Models of hog_color, and their images: folders of seeded JPEGs, and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from imgsim_assets import ImageSimilarityModel
from imgsim_assets_tests.support.images import jpeg


def write_image_folder(path: Path, seeds: range) -> Path:
    """Write one JPEG per seed: 000.jpg, 001.jpg, ..."""
    path.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (path / f"{seed:03d}.jpg").write_bytes(jpeg(seed))
    return path


def noise_image(mean: int, seed: int, edge_px: int = 64) -> Image.Image:
    """A nearly white (high mean) or nearly black (low mean) noise image."""
    generator = np.random.default_rng(seed)
    pixels = generator.normal(mean, 12, (edge_px, edge_px, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def create_model(dataset: Any, **options: Any) -> ImageSimilarityModel:
    """Create a model without progress, by default of hog_color."""
    options = {"encoder": "hog_color", "progress": False, **options}
    return ImageSimilarityModel.create(dataset, **options)


def query_model(model: ImageSimilarityModel, dataset: Any, **options: Any) -> pl.DataFrame:
    """Query a model without progress."""
    return model.query(dataset, progress=False, **options)
