"""Cosines of edited copies of images with the images, as tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.compute.tasks import run_tasks
from imgsim_assets.encoders.encoder import default_batch_size
from imgsim_assets.encoders.engine import EncodedBatch, Engine
from imgsim_assets.encoders.recorded import load_encoder_of
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.perturbations import PERTURBATIONS, perturb
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

# The same on every engine, since the last bits of some encoders depend on their batches.
_IMAGES_PER_TASK = 128
# What a task needs: the encoder, and a batch of images.
_TASK_BYTES = 3 * 2**30


class Originals(NamedTuple):
    """Images (sha256) and their vectors (n, dim)."""

    images: Sequence[str]
    vectors: NDArray[np.float32]


class CopyEncoder:
    """Encodes copies of images. An object that another process unpickles loads the encoder again.

    Args:
        store: where the images are.
        name: name of the catalog.
        embeddings: the commit of its embeddings.
        declared: its encoder as declared; None for the recorded one.
    """

    def __init__(
        self, store: Store, name: str, embeddings: Commit, declared: EncoderSettings | None
    ) -> None:
        self._store, self._name = store, name
        self._embeddings, self._declared = embeddings, declared

    def __reduce__(self) -> tuple[Any, ...]:
        return CopyEncoder, (self._store, self._name, self._embeddings, self._declared)

    def cosines(self, originals: Originals) -> dict[str, NDArray[np.float64]]:
        """By perturbation, the cosine of each image's copy with the image; 0 without a vector."""
        images, vectors = originals
        tasks = [
            Originals(images[start:][:_IMAGES_PER_TASK], vectors[start:][:_IMAGES_PER_TASK])
            for start in range(0, len(images), _IMAGES_PER_TASK)
        ]
        results = list(
            run_tasks(
                self,
                tasks,
                f"{self._name} encoder evaluation",
                unit=f"batches of {_IMAGES_PER_TASK} images",
                memory=_TASK_BYTES,
                uses_gpu=True,
            )
        )
        return {
            perturbation: np.concatenate([np.empty(0), *(part[perturbation] for part in results)])
            for perturbation in PERTURBATIONS
        }

    def __call__(self, originals: Originals) -> dict[str, NDArray[np.float64]]:
        """The task: the cosines of some images."""
        images, vectors = originals
        keys = [(row, perturbation) for row in range(len(images)) for perturbation in PERTURBATIONS]
        cosines = {perturbation: np.zeros(len(images)) for perturbation in PERTURBATIONS}

        def load_copy(key: tuple[int, str]) -> Image.Image:
            row, perturbation = key
            sha256 = images[row]
            try:
                original = decode(self._store.blobs.get(sha256))
            except CorruptFileError:
                self._store.blobs.report_missing(sha256)
                raise  # without the image the evaluation would be wrong
            return perturb(original, perturbation, int(sha256[:8], 16))

        for result in self._engine.run(keys, load_copy):
            if isinstance(result, EncodedBatch):
                raw = result.features.astype(np.float64)
                for (row, perturbation), features in zip(result.keys, raw, strict=True):
                    length = float(np.linalg.norm(features))
                    if np.isfinite(length) and length > 0:
                        cosines[perturbation][row] = float(features @ vectors[row]) / length
        return cosines

    @cached_property
    def _engine(self) -> Engine:
        settings, encoder = load_encoder_of(self._embeddings, self._name, self._declared)
        return Engine(encoder, default_batch_size(settings, encoder), label=settings.describe())
