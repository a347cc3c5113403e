"""Feature vectors to join: of real images, and any number derived from them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.decode import decode

Floats = NDArray[np.float32]

_BATCH = 8
_BLOCK = 8192


def mobilenet_features(images: Sequence[Path], weights: Path, cache: Path) -> Floats:
    """Unit MobileNetV2 features (n, 1280) of all JPEGs of some tars, computed once."""
    if not cache.exists():
        encoder = load_encoder(EncoderSettings(name="mobilenet_v2", weights=str(weights)))
        opened = chain.from_iterable(decoded_images(archive) for archive in images)
        prepared = (encoder.prepare(image) for image in opened)
        raw = []
        while batch := list(islice(prepared, _BATCH)):
            raw.append(encoder.encode(np.stack(batch)))
        np.save(cache, unit(np.concatenate(raw)))
    features: Floats = np.load(cache)
    return features


def bootstrapped(features: Floats, count: int, noise: float, seed: int) -> Floats:
    """(count, d) rows drawn from the features, with relative normal noise on every number."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((count, features.shape[1]), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        rows = features[rng.integers(0, len(features), min(_BLOCK, count - start))]
        blur = rng.standard_normal(rows.shape, dtype=np.float32)
        drawn[start : start + len(rows)] = unit(rows * (1 + noise * blur))
    return drawn


def projected(features: Floats, dim: int, seed: int) -> Floats:
    """(n, dim) features after a seeded random projection."""
    basis = np.random.default_rng(seed).standard_normal((features.shape[1], dim))
    return unit((features @ basis.astype(np.float32)) / np.sqrt(dim))


def unit(rows: NDArray[np.floating]) -> Floats:
    """The rows scaled to norm 1."""
    units: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


def decoded_images(archive: Path) -> Iterator[Image.Image]:
    """The JPEGs of a tar, decoded, in the order of their names."""
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(".jpg"):
                yield decode(file.read())
