"""Images to vectors, outside of any store: read, prepared in threads, encoded in batches."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    gpu_decodable_jpeg,
    load_encoder,
    min_decode_size,
    needs_loading,
)
from imgsim_assets.encoders.engine import EncodedBatch, Engine, FailedImage
from imgsim_assets.encoders.recorded import require_encoder
from imgsim_assets.encoders.settings import AUTO, FP32, EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.images.header import ImageError
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.search.dataset import DatasetOptions, read_dataset
from imgsim_assets.search.image_ref import ImageDigests, ImageRef, file_digest, load_rgb
from imgsim_assets.search.orientation import UPRIGHT, Orientation

_SHOWN = 3
_preferred_gpus = -1

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """An image without a vector: its position in what was given, and why."""

    position: int
    name: str
    status: str
    detail: str


@dataclass(frozen=True)
class Embedded:
    """The vectors (n, d) float32 of the images at `positions`, and why others have none."""

    positions: NDArray[np.int64]
    vectors: Floats
    keys: Sequence[ImageDigests]
    failures: Sequence[Failure]


class Embedder:
    """An encoder that is loaded when the first image comes.

    With `unit`, vectors are divided by their length, as everywhere else in this package;
    without it they are what the encoder returns. `encoder_fingerprint` is the fingerprint of the encoder of
    vectors that are there already; without any, of this one once it is loaded, and None for one
    of one's own that has no declared version.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        *,
        unit: bool = True,
        encoder_fingerprint: str | None = None,
    ) -> None:
        self.settings = settings
        self.unit = unit
        self.encoder_fingerprint = encoder_fingerprint
        self._encoder: Encoder | None = None
        self._engine: Engine | None = None
        self._batch_size: int | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on the devices that it or `set_num_gpus` names.

        Raises EncoderError when it cannot be loaded, and StoreError when it is not the one that
        made the vectors that are there.
        """
        if self._encoder is None:
            settings = self.settings
            if settings.device == "auto" and settings.num_gpus == -1:
                settings = settings.model_copy(update={"num_gpus": _preferred_gpus})
            if settings.precision == AUTO:  # which a store settles, and a model has none
                settings = settings.model_copy(update={"precision": FP32})
            loaded = load_encoder(settings) if needs_loading(settings) else None
            if self.encoder_fingerprint is not None:
                require_encoder(settings, self.encoder_fingerprint, "the model's vectors", loaded)
            elif loaded is None:
                self.encoder_fingerprint = fingerprint(settings)
            self._encoder = loaded or load_encoder(settings)
        return self._encoder

    def embed(
        self,
        images: Sequence[ImageRef],
        *,
        known: Mapping[str, Floats] | None = None,
        orientation: Orientation = UPRIGHT,
        batch_size: int | None = None,
        log: Log = silent,
    ) -> Embedded:
        """Turn images into vectors; one that cannot be is a failure, not an error.

        `known` has vectors by the digests of ImageDigests: an image that is found there, upright, is
        not encoded again.
        """
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; it must be at least 1")
        work = _Work(images, known or {}, orientation, self.encoder)
        engine = self._started(batch_size)
        with (
            Progress("embedding", len(images), log) as progress,
            closing(engine.run(range(len(images)), work.load)) as results,
        ):
            for result in results:
                if isinstance(result, FailedImage):
                    work.refuse(result.key, result.error)
                    progress.advance()
                else:
                    work.accept(result, unit=self.unit)
                    progress.advance(len(result.keys))
        return work.embedded()

    def _started(self, batch_size: int | None) -> Engine:
        """The engine of the last call, unless that had batches of another size."""
        if self._engine is None or self._batch_size != batch_size:
            size = batch_size or default_batch_size(self.settings, self.encoder)
            what = f"encoder {self.settings.describe()}"
            self._engine = Engine(self.encoder, size, what=what)
            self._batch_size = batch_size
        return self._engine


class _KnownError(ImageError):
    """Raised in place of an image whose vector is there already."""

    def __init__(self, vector: Floats) -> None:
        super().__init__("known", "its vector is there already")
        self.vector = vector


class _Work:
    """The images of one call, and what has become of them so far."""

    def __init__(
        self,
        images: Sequence[ImageRef],
        known: Mapping[str, Floats],
        orientation: Orientation,
        encoder: Encoder,
    ) -> None:
        self._images = images
        self._known = known
        self._orientation = orientation
        self._encoder = encoder
        self._keys: dict[int, ImageDigests] = {}
        self._rows: dict[int, Floats] = {}
        self._failures: list[Failure] = []

    def load(self, position: int) -> Image.Image | Jpeg:
        """An image as the encoder is to see it; or _KnownError if it need not."""
        image, keys = self._read(self._images[position])
        self._keys[position] = keys
        if self._orientation == UPRIGHT:
            for key in (keys.sha256, keys.pixels):
                if key is not None and key in self._known:
                    raise _KnownError(self._known[key])
        return image if isinstance(image, Jpeg) else self._orientation.apply(image)

    def _read(self, ref: ImageRef) -> tuple[Image.Image | Jpeg, ImageDigests]:
        """As the embeddings stage reads it, and its keys."""
        loaded = ref.loaded()
        if isinstance(loaded, bytes) and self._orientation == UPRIGHT:
            jpeg = gpu_decodable_jpeg(loaded, self._encoder)
            if jpeg is not None:
                return jpeg, ImageDigests(file_digest(loaded))
        return load_rgb(loaded, min_decode_size(self._encoder))

    def refuse(self, position: int, error: ImageError) -> None:
        """Note why there are no features."""
        if isinstance(error, _KnownError):
            self._rows[position] = error.vector
        else:
            self._fail(position, error.status, error.detail)

    def accept(self, encoded: EncodedBatch[int], *, unit: bool) -> None:
        """Note the features of a batch, with length 1 if they are to have it."""
        features = encoded.features.astype(np.float64)
        lengths = np.sqrt(np.square(features).sum(axis=1))
        for position, row, length in zip(encoded.keys, features, lengths, strict=True):
            if not np.isfinite(length):
                self._fail(position, "not_finite", "the encoder's numbers overflow")
            elif unit and length == 0:
                self._fail(position, "zero_vector", "the encoder sees nothing in this image")
            else:
                self._rows[position] = (row / length if unit else row).astype(np.float32)

    def _fail(self, position: int, status: str, detail: str) -> None:
        name = self._images[position].name
        self._failures.append(Failure(position, name, status, detail))

    def embedded(self) -> Embedded:
        """Everything, in the order of the images."""
        positions = sorted(self._rows)
        rows = [self._rows[at] for at in positions]
        return Embedded(
            np.array(positions, dtype=np.int64),
            np.stack(rows) if rows else np.empty((0, 0), np.float32),
            [self._keys[at] for at in positions],
            sorted(self._failures, key=lambda failure: failure.position),
        )


def extract_features(
    images: Any,
    encoder: str | EncoderSettings = "mobilenet_v3_large",
    *,
    feature: str | None = None,
    normalize: bool = True,
    batch_size: int | None = None,
    download: DownloadSettings | None = None,
    ignore_failure: bool = True,
    progress: bool = True,
) -> pl.Series:
    """The vectors of images, to be kept and given to `create` as its feature.

    Args:
        images: what `ImageSimilarityModel.create` takes as its dataset, but vectors.
        encoder: an encoder by name or settings.
        feature: the column of images, where it is not the only one.
        normalize: whether vectors get length 1; if not, they are as the encoder gives them.
        batch_size: images a forward pass; default by the device.
        download: manners and limits of fetching, for URLs.
        ignore_failure: whether an image without a vector is a null and a warning, or an error.
        progress: whether long steps say on stderr how they are getting on.

    Returns:
        A Series "features" of Array(Float32, d), one row for each of `images`.

    Raises:
        SettingsError: for wrong arguments, and when no image has a vector.
        EncoderError: when the encoder cannot be loaded.
    """
    reading = DatasetOptions(
        "images", None, feature, download or DownloadSettings(), log_to(progress)
    )
    dataset = read_dataset(images, reading)
    if dataset.images is None:
        raise SettingsError("images: these are vectors already; give images")
    embedder = Embedder(encoder_settings(encoder), unit=normalize)
    embedded = embedder.embed(dataset.images, batch_size=batch_size, log=reading.log)
    report_failures(embedded.failures, len(dataset), "images", ignore_failure=ignore_failure)
    rows: list[Any] = [None] * len(dataset)
    for position, vector in zip(embedded.positions.tolist(), embedded.vectors, strict=True):
        rows[position] = vector.tolist()
    return pl.Series("features", rows, dtype=pl.Array(pl.Float32, embedded.vectors.shape[1]))


def report_failures(
    failures: Sequence[Failure], total: int, argument: str, *, ignore_failure: bool
) -> None:
    """Warn of images that are left out, or raise when they may not be, or when all are."""
    if not failures:
        return
    listed = "; ".join(
        f"{failure.name}: {failure.status}, {failure.detail}" for failure in failures[:_SHOWN]
    )
    more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    message = f"{argument}: {len(failures)} of {total} images cannot be used ({listed}{more})"
    if len(failures) == total:
        raise SettingsError(f"{message}; give at least one that can")
    if not ignore_failure:
        raise SettingsError(f"{message}; mend or leave them out, or set ignore_failure=True")
    warnings.warn(f"{message}; they are left out", stacklevel=3)


def encoder_settings(encoder: str | EncoderSettings | Mapping[str, Any]) -> EncoderSettings:
    """An encoder's settings from its name, a mapping of them, or themselves."""
    if isinstance(encoder, EncoderSettings):
        return encoder
    named = {"name": encoder} if isinstance(encoder, str) else dict(encoder)
    try:
        return EncoderSettings.model_validate(named)
    except ValueError as error:
        raise SettingsError(f"encoder: {error}") from error


def set_num_gpus(count: int) -> None:
    """Let encoders that are made from now on use so many GPUs, where they do not say it.

    -1, as at the start, takes all there are, 0 keeps to the CPU. More than there are is an
    EncoderError when the encoder is loaded.
    """
    if count < -1:
        raise SettingsError(f"count is {count}; use -1 for all GPUs, 0 for none, or their number")
    global _preferred_gpus
    _preferred_gpus = count


def log_to(progress: bool) -> Log:
    """A log to stderr, or none."""
    return (lambda line: print(line, file=sys.stderr, flush=True)) if progress else silent
