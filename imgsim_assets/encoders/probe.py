"""Probe vectors: a few fixed images that show whether an encoder is still the same.

A fingerprint names a model, its weights and its settings. It cannot see another version of a
library or changed code of a factory. The vectors of the probes, recorded with the fingerprint, can.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.engine import EncodedBatch, Engine
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import EncoderError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

# Property of a commit of embeddings.
PROBE = "probe"
# Other processors change a network's vectors by less; another model changes them by more.
MIN_COSINE = 0.999
# Square, wide and tall, since encoders differ in what they do with each: (width, height).
_SIZES = ((96, 96), (320, 120), (120, 320))
_DTYPE = np.dtype("<f2")


def probe_images() -> list[Image.Image]:
    """The probes: colored waves with some noise, in RGB; the same on every machine."""
    images = []
    for number, (width, height) in enumerate(_SIZES):
        x = np.linspace(0, 6, width)[None, :, None]
        y = np.linspace(0, 6, height)[:, None, None]
        phases = np.array([0.0, 2.0, 4.0]) + number
        waves = 128 + 60 * np.sin(x * (number + 1) + phases) + 50 * np.cos(y * 2 - phases)
        noise = np.random.default_rng(number).integers(-15, 16, (height, width, 3))
        images.append(Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)))
    return images


def probe_vectors(engine: Engine) -> NDArray[np.float32]:
    """The probes' unit vectors, (3, dim) float32; zeros for a probe that has no vector.

    Args:
        engine: runs the encoder, as it does for other images.

    Raises:
        EncoderError: when the encoder fails; see `Engine.run`.
    """
    rows: dict[int, NDArray[np.float64]] = {}
    for result in engine.run(range(len(_SIZES)), probe_images().__getitem__):
        if isinstance(result, EncodedBatch):
            rows.update(zip(result.keys, result.features.astype(np.float64), strict=True))
    dim = len(next(iter(rows.values()))) if rows else 1
    features = np.stack([rows.get(number, np.zeros(dim)) for number in range(len(_SIZES))])
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    has_direction = np.isfinite(norms) & (norms > 0)
    vectors = np.where(has_direction, features / np.where(has_direction, norms, 1), 0)
    return np.asarray(vectors, np.float32)


def to_property(vectors: NDArray[np.float32]) -> str:
    """Probe vectors as text for a commit's properties."""
    return base64.b64encode(vectors.astype(_DTYPE).tobytes()).decode()


def recorded_probe(store: Store, name: str, fingerprint: str) -> str | None:
    """The probe vectors that a store has of an encoder, those of catalog `name` first."""
    tables = [table for table in store.table_names() if table.endswith("/embeddings")]
    for table in sorted(tables, key=lambda table: (table != f"{name}/embeddings", table)):
        commit = store.table(table, key="id").latest()
        if commit is not None and _has_probe(commit, fingerprint):
            return str(commit.properties[PROBE])
    return None


def _has_probe(commit: Commit, fingerprint: str) -> bool:
    return commit.properties.get(FINGERPRINT) == fingerprint and PROBE in commit.properties


def require_same_vectors(recorded: str, vectors: NDArray[np.float32], encoder: str) -> None:
    """Raise EncoderError unless an encoder gives the probe vectors that were recorded.

    Args:
        recorded: text of `to_property`.
        vectors: of the encoder as it is now.
        encoder: names it in the message.
    """
    before = np.frombuffer(base64.b64decode(recorded), _DTYPE).astype(np.float64)
    if before.size == vectors.size:
        before = before.reshape(vectors.shape)
        cosines = 1 - ((before - vectors) ** 2).sum(axis=1) / 2
        if (cosines >= MIN_COSINE).all():
            return
        difference = f"a cosine of {cosines.min():.4f} between the two"
    else:
        difference = f"{before.size // len(vectors)} numbers before, {vectors.shape[1]} now"
    raise EncoderError(
        f"{encoder} no longer gives the vectors that it gave when the stored ones were computed "
        f"({difference} for a test image), so that old and new ones cannot be compared: go back "
        "to the version of its library or code, or set another 'version:' (factory) or "
        "'revision:' of the encoder, which recomputes all vectors"
    )
