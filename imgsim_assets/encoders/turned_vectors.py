"""The vectors of turned images: of each image of a catalog in the orientations beside upright.

They are computed where a result asks for them, once for each distinct image, and stored as other
vectors are: each orientation has a table of its own, whose fingerprint names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.copied_vectors import copy_from_other_catalogs
from imgsim_assets.encoders.encoder import Encoder, default_batch_size, min_decode_size
from imgsim_assets.encoders.engine import EncodedBatch, Engine
from imgsim_assets.encoders.probe import probe_vectors, recorded_probe, require_same_vectors
from imgsim_assets.encoders.recorded import FINGERPRINT, load_encoder_of
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.orientation import TURNED
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

# Images whose vectors are committed at once: what an interrupted run loses at most.
_IMAGES_PER_COMMIT = 512
_NOT_ENCODED = "not_encoded"

Features = NDArray[np.float64]


class TurnedVectors:
    """The vectors of one catalog's images in the orientations of TURNED.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        embeddings: the commit of its embeddings or its index.
        encoder: the catalog's encoder as declared, its weights file located; by default as the
            commit records it, which must not be a factory's.
        log: receives progress messages.

    Attributes:
        encoded: images that were encoded, in all orientations, by this object.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        embeddings: Commit,
        encoder: EncoderSettings | None = None,
        *,
        log: Log = silent,
    ) -> None:
        self.encoded = 0
        self._store, self._name, self._log = store, name, log
        self._embeddings, self._declared = embeddings, encoder
        fingerprint = embeddings.properties[FINGERPRINT]
        self._upright = VectorTable(store, name, fingerprint)
        self._tables = turned_tables(store, name, fingerprint)

    @property
    def rebuild_count(self) -> int:
        """How often damaged vectors were dropped; see `VectorTable.rebuild_count`."""
        return sum(table.rebuild_count for table in self._tables)

    def ensure(self, images: Sequence[str]) -> None:
        """Copy or compute the vectors of images (sha256) that the store lacks.

        An orientation in which the encoder fails has the vector of the upright image, so that it
        adds nothing to a comparison.

        Raises:
            EncoderError: the encoder cannot be loaded or misbehaves.
            SettingsError: the encoder is a factory's, or runs the code of a file, and was not
                declared.
            StoreError: the bytes of an image are missing or damaged, or another encoder made the
                vectors.
        """
        missing = [table.missing(images) for table in self._tables]
        for table, keys in zip(self._tables, missing, strict=True):
            if keys:
                copy_from_other_catalogs(self._store, table, keys)
        wanted = sorted(set().union(*missing))
        if not wanted:
            return
        settings, encoder = load_encoder_of(self._embeddings, self._name, self._declared)
        size, label = default_batch_size(settings, encoder), f"encoder {settings.describe()}"
        self._check_probe(Engine(encoder, size, label=label), label)
        turning = _TurningEncoder(encoder)
        if not turning.fixed_batch:
            size = max(1, size // len(TURNED))
        engine = Engine(turning, size, label=label)
        with Progress(f"{self._name} turned", len(wanted), self._log) as progress:
            for start in range(0, len(wanted), _IMAGES_PER_COMMIT):
                some = wanted[start : start + _IMAGES_PER_COMMIT]
                self._append(self._encode(engine, encoder, some, progress), missing)

    def _check_probe(self, engine: Engine, label: str) -> None:
        """Stop if the encoder gives other vectors than the upright ones of the store."""
        fingerprint = self._embeddings.properties[FINGERPRINT]
        recorded = recorded_probe(self._store, self._name, fingerprint)
        if recorded is not None:
            require_same_vectors(recorded, probe_vectors(engine), label)

    def _encode(
        self, engine: Engine, encoder: Encoder, images: Sequence[str], progress: Progress
    ) -> Mapping[str, Features]:
        """The features (len(TURNED), d) of images; zeros where the encoder fails."""
        min_size = min_decode_size(encoder)
        lost: list[str] = []

        def load(sha256: str) -> Image.Image:
            try:
                data = self._store.blobs.get(sha256)
            except CorruptFileError as error:
                self._store.blobs.report_missing(sha256)
                lost.append(str(error))
                raise ImageError(_NOT_ENCODED, str(error)) from error
            return decode(data, min_size=min_size, accept_truncated=True)

        features: dict[str, Features] = {}
        with closing(engine.run(images, load)) as results:
            for result in results:
                if isinstance(result, EncodedBatch):
                    shape = (len(result.keys), len(TURNED), encoder.dim)
                    of_batch = result.features.astype(np.float64).reshape(shape)
                    features.update(zip(result.keys, of_batch, strict=True))
                    progress.advance(len(result.keys))
                else:
                    features[result.key] = np.zeros((len(TURNED), encoder.dim))
                    progress.advance(kind=_NOT_ENCODED)
        if lost:
            raise StoreError(
                f"orientations lack the bytes of {counted(len(lost), 'image')}: {min(lost)}; "
                f"run the images of {self._name} again"
            )
        self.encoded += len(features)
        return features

    def _append(self, features: Mapping[str, Features], missing: Sequence[set[str]]) -> None:
        """Commit the unit vectors that each table lacks."""
        failed = [sha256 for sha256, each in features.items() if not _has_directions(each).all()]
        upright = self._upright.read(failed)
        rows_of_failed = {sha256: row for row, sha256 in enumerate(upright.sha256)}
        for number, (table, keys) in enumerate(zip(self._tables, missing, strict=True)):
            images = sorted(keys & features.keys())
            vectors, norms = [], []
            for sha256 in images:
                raw = features[sha256][number]
                if _has_directions(raw):
                    norms.append(np.linalg.norm(raw))
                    vectors.append(raw / norms[-1])
                else:
                    row = rows_of_failed[sha256]
                    norms.append(upright.norms[row])
                    vectors.append(upright.vectors[row])
            if images:
                stacked = np.stack(vectors).astype(np.float32)
                table.append(VectorRows(images, stacked, np.array(norms, np.float32)))


def _has_directions(features: Features) -> NDArray[np.bool_]:
    """Which rows of features (..., d) are finite and not zero."""
    norms = np.linalg.norm(features, axis=-1)
    has_direction: NDArray[np.bool_] = np.isfinite(norms) & (norms > 0)
    return has_direction


def turned_tables(store: Store, name: str, fingerprint: str) -> list[VectorTable]:
    """The tables of a catalog's turned images by an encoder, in the order of TURNED."""
    return [VectorTable(store, name, f"{fingerprint}.{each.name}") for each in TURNED]


class _TurningEncoder:
    """Encodes an image in all orientations of TURNED at once: it is decoded once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder: Any = encoder
        self.dim = encoder.dim * len(TURNED)
        self.fixed_batch = bool(getattr(encoder, "fixed_batch", False))
        self.device = getattr(encoder, "device", "cpu")

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """(len(TURNED), ...): the image as the encoder takes it, in each orientation."""
        return np.stack([self._encoder.prepare(each.apply(image)) for each in TURNED])

    def encode(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """(n, len(TURNED), ...) to (n, len(TURNED) * d); a forward pass for each orientation."""
        parts = [self._encoder.encode(batch[:, number]) for number in range(len(TURNED))]
        return np.concatenate(parts, axis=1)

    def replicas(self, cores: int) -> list[_TurningEncoder]:
        """One for each replica of the encoder."""
        replicate = getattr(self._encoder, "replicas", None)
        encoders = replicate(cores) if replicate else [self._encoder]
        return [_TurningEncoder(each) for each in encoders]

    def use_one_thread(self) -> None:
        """As of the encoder."""
        self._call("use_one_thread")

    def release_memory(self) -> None:
        """As of the encoder."""
        self._call("release_memory")

    def _call(self, name: str) -> None:
        method = getattr(self._encoder, name, None)
        if method is not None:
            method()
