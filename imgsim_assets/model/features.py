"""Pictures to vectors, outside of any store: read, prepared in threads, encoded in batches."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    load_encoder,
    needs_loading,
)
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import EncoderError, SettingsError
from imgsim_assets.images.header import ImageError
from imgsim_assets.model.dataset import Reading, read_dataset
from imgsim_assets.model.orientation import UPRIGHT, View
from imgsim_assets.model.picture import Keys, Picture
from imgsim_assets.progress import Log, Progress, silent

_READERS = 4
_SHOWN = 3
_preferred_device = "auto"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """A picture without a vector: its position in what was given, and why."""

    position: int
    name: str
    status: str
    detail: str


@dataclass(frozen=True)
class Embedded:
    """The vectors (n, d) float32 of the pictures at `positions`, and why others have none."""

    positions: NDArray[np.int64]
    vectors: Floats
    keys: Sequence[Keys]
    failures: Sequence[Failure]


class Embedder:
    """An encoder that is loaded when the first picture comes.

    With `unit`, vectors are divided by their length, as everywhere else in this package;
    without it they are what the encoder returns.
    """

    def __init__(self, settings: EncoderSettings, *, unit: bool = True) -> None:
        self.settings = settings
        self.unit = unit
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on the preferred device."""
        if self._encoder is None:
            device = self.settings.device
            chosen = _preferred_device if device == "auto" else device
            self._encoder = load_encoder(self.settings.model_copy(update={"device": chosen}))
        return self._encoder

    @property
    def fingerprint(self) -> str:
        """What tells this encoder's vectors from others'; see encoders.encoder.fingerprint."""
        return fingerprint(self.settings, self.encoder if needs_loading(self.settings) else None)

    def embed(
        self,
        pictures: Sequence[Picture],
        *,
        known: Mapping[str, Floats] | None = None,
        view: View = UPRIGHT,
        batch_size: int | None = None,
        log: Log = silent,
    ) -> Embedded:
        """Turn pictures into vectors; one that cannot be is a failure, not an error.

        `known` has vectors by the digests of Keys: a picture that is found there, upright, is
        not encoded again.
        """
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; it must be at least 1")
        rows: dict[int, Floats] = {}
        keys: dict[int, Keys] = {}
        failures: list[Failure] = []
        size = batch_size or default_batch_size(self.settings, self.encoder)
        with (
            Progress("embedding", len(pictures), log) as progress,
            ThreadPoolExecutor(_READERS, "read") as pool,
        ):
            prepared = self._prepared(pool, pictures, known or {}, view, failures, 2 * size)
            while batch := list(islice(prepared, size)):
                keys.update((position, key) for position, key, _, _ in batch)
                rows.update((at, vector) for at, _, vector, _ in batch if vector is not None)
                fresh = [(at, array) for at, _, vector, array in batch if vector is None]
                rows.update(self._encoded(fresh, pictures, failures))
                progress.advance(len(batch))
        positions = sorted(rows)
        width = len(rows[positions[0]]) if positions else 0
        return Embedded(
            np.array(positions, dtype=np.int64),
            np.stack([rows[at] for at in positions]) if positions else np.empty((0, width), "f4"),
            [keys[at] for at in positions],
            sorted(failures, key=lambda failure: failure.position),
        )

    def _prepared(
        self,
        pool: ThreadPoolExecutor,
        pictures: Sequence[Picture],
        known: Mapping[str, Floats],
        view: View,
        failures: list[Failure],
        ahead: int,
    ) -> Iterator[tuple[int, Keys, Floats | None, NDArray[Any] | None]]:
        """Position, keys, and either the known vector or the prepared picture, in order."""
        encoder = self.encoder

        def prepare(picture: Picture) -> tuple[Keys, Floats | None, NDArray[Any] | None]:
            image, keys = picture.read()
            if view == UPRIGHT:
                for key in (keys.sha256, keys.pixels):
                    if key is not None and key in known:
                        return keys, known[key], None
            return keys, None, encoder.prepare(view.turned(image))

        waiting: list[tuple[int, Future[tuple[Keys, Floats | None, NDArray[Any] | None]]]] = []
        remaining = iter(enumerate(pictures))
        while True:
            waiting.extend(
                (position, pool.submit(prepare, picture))
                for position, picture in islice(remaining, ahead + _READERS - len(waiting))
            )
            if not waiting:
                return
            position, future = waiting.pop(0)
            try:
                yield (position, *future.result())
            except ImageError as error:
                name = pictures[position].name
                failures.append(Failure(position, name, error.status, error.detail))

    def _encoded(
        self,
        fresh: Sequence[tuple[int, NDArray[Any] | None]],
        pictures: Sequence[Picture],
        failures: list[Failure],
    ) -> dict[int, Floats]:
        if not fresh:
            return {}
        arrays = [array for _, array in fresh if array is not None]
        raw = np.asarray(self.encoder.encode(np.stack(arrays)))
        if raw.shape != (len(fresh), self.encoder.dim):
            raise EncoderError(
                f"encoder {self.settings.describe()} returned an array of shape {raw.shape} for "
                f"{len(fresh)} pictures; it must be ({len(fresh)}, {self.encoder.dim})"
            )
        lengths = np.sqrt(np.square(raw.astype(np.float64)).sum(axis=1))
        rows: dict[int, Floats] = {}
        for (position, _), row, length in zip(fresh, raw, lengths, strict=True):
            if not np.isfinite(length) or (self.unit and length == 0):
                status = "zero_vector" if length == 0 else "not_finite"
                detail = "the encoder makes no vector of this picture that can be compared"
                failures.append(Failure(position, pictures[position].name, status, detail))
            else:
                scale = length if self.unit else 1.0
                rows[position] = (row.astype(np.float64) / scale).astype(np.float32)
        return rows


def extract_features(
    images: Any,
    encoder: str | EncoderSettings = "mobilenet_v3_large",
    *,
    feature: str | None = None,
    normalise: bool = True,
    batch_size: int | None = None,
    download: DownloadSettings | None = None,
    ignore_failure: bool = True,
    progress: bool = True,
) -> pl.Series:
    """The vectors of pictures, to be kept and given to `create` as its feature.

    Args:
        images: what `ImageSimilarityModel.create` takes as its dataset, but vectors.
        encoder: an encoder by name or settings.
        feature: the column of pictures, where it is not the only one.
        normalise: whether vectors get length 1; if not, they are as the encoder gives them.
        batch_size: pictures a forward pass; default by the device.
        download: manners and limits of fetching, for URLs.
        ignore_failure: whether a picture without a vector is a null and a warning, or an error.
        progress: whether long steps say on stderr how they are getting on.

    Returns:
        A Series "features" of Array(Float32, d), one row for each of `images`.

    Raises:
        SettingsError: for wrong arguments, and when no picture has a vector.
        EncoderError: when the encoder cannot be loaded.
    """
    reading = Reading("images", None, feature, download or DownloadSettings(), log_to(progress))
    dataset = read_dataset(images, reading)
    if dataset.pictures is None:
        raise SettingsError("images: these are vectors already; give pictures")
    embedder = Embedder(encoder_settings(encoder), unit=normalise)
    embedded = embedder.embed(dataset.pictures, batch_size=batch_size, log=reading.log)
    report_failures(embedded.failures, len(dataset), "images", ignore_failure=ignore_failure)
    rows: list[Any] = [None] * len(dataset)
    for position, vector in zip(embedded.positions.tolist(), embedded.vectors, strict=True):
        rows[position] = vector.tolist()
    return pl.Series("features", rows, dtype=pl.Array(pl.Float32, embedded.vectors.shape[1]))


def report_failures(
    failures: Sequence[Failure], total: int, argument: str, *, ignore_failure: bool
) -> None:
    """Warn of pictures that are left out, or raise when they may not be, or when all are."""
    if not failures:
        return
    listed = "; ".join(
        f"{failure.name}: {failure.status}, {failure.detail}" for failure in failures[:_SHOWN]
    )
    more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    message = f"{argument}: {len(failures)} of {total} pictures cannot be used ({listed}{more})"
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
    """Use a GPU for encoders made from now on, where their own `device` is "auto".

    0 keeps them on the CPU, 1 asks for the first GPU (an error where there is none), -1, as
    at the start, takes a GPU if there is one. One process works on one GPU: for several, run
    one process each with `device: cuda:N`.
    """
    devices = {-1: "auto", 0: "cpu", 1: "cuda:0"}
    if count not in devices:
        raise SettingsError(
            f"count is {count}; use -1 (a GPU if there is one), 0 or 1, and for several GPUs one "
            "process each with the encoder's 'device: cuda:N'"
        )
    global _preferred_device
    _preferred_device = devices[count]


def log_to(progress: bool) -> Log:
    """A log to stderr, or none."""
    return (lambda line: print(line, file=sys.stderr, flush=True)) if progress else silent
