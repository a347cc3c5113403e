"""The embeddings stage: one unit vector for each distinct image of a shard."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    gpu_decodable_jpeg,
    load_encoder,
    min_decode_size,
    needs_loading,
)
from imgsim_assets.encoders.engine import EncodedBatch, Engine, FailedImage, StageTimings
from imgsim_assets.encoders.known_failures import SIZE, EarlierRows, KnownFailures
from imgsim_assets.encoders.precision import resolve_precision
from imgsim_assets.encoders.probe import (
    PROBE,
    probe_vectors,
    recorded_probe,
    require_same_vectors,
    to_property,
)
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT, to_metadata
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import LOST_IMAGE, embeddings_table, status_rows
from imgsim_assets.encoders.vector_files import BLANK, FLAGS, TRUNCATED
from imgsim_assets.encoders.vectors import VectorRows, VectorTable, concat_rows, vectors_digest
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.images.content import is_blank
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit, PendingCommit, is_compacted, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

COMMIT_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run did for one shard.

    Attributes:
        shard: name of the shard.
        version: of the embeddings table.
        items: items of the shard that have an image.
        usable_items: items of which an image has a vector.
        images: the images of these items.
        distinct_images: how many of these differ.
        embedded: images that were encoded, in this run and before it by `embed_available`.
        reused: vectors copied from other catalogs. The remaining distinct images had a vector.
        seconds: duration of the work.
        statuses: number of images by status.
        changed: whether the run committed a new version.
        data_version: digest of which image of which item has which vector of which encoder.
        fingerprint: of the encoder.
        precision: fp32 or bf16.
        recommended_threshold: the threshold that was measured for the encoder, if any.
        dim: width of the vectors, None where there are none.
        embedded_early: those of `embedded` that were encoded while the shard was being fetched.
        images_per_second: rates of decode, preprocess and forward, see
            `StageTimings`; empty where no image was encoded.
        device: the devices that encoded, None where no image was encoded.
        batch_size: images per forward pass, None where no image was encoded.
    """

    shard: str
    version: int
    items: int
    usable_items: int
    images: int
    distinct_images: int
    embedded: int
    reused: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str
    fingerprint: str
    precision: str
    recommended_threshold: float | None
    dim: int | None = None
    embedded_early: int = 0
    images_per_second: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | None = None


class StoppedError(Exception):
    """Raised by a stage whose `stop` is set; the vectors computed so far are committed."""


@dataclass
class _ShardWork:
    """Work done for a shard, by `run` and `embed_available`."""

    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0
    timings: StageTimings = field(default_factory=StageTimings)
    ledger_files: set[str] = field(default_factory=set)


class EmbeddingStage:
    """Embeds the shards of one catalog; the encoder is loaded when it is first needed.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        settings: the encoder, its weights file located.
        log: receives progress messages.
        stop: once any thread sets it, the stage raises StoppedError within a batch.

    Raises:
        EncoderError: when a factory without a declared version cannot be loaded.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: EncoderSettings,
        *,
        log: Log = silent,
        stop: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._log = log
        self._stop = stop or threading.Event()
        self._works: dict[Shard, _ShardWork] = {}
        self._ledger = ledger_table(store, name)
        self._table = embeddings_table(store, name)
        self._known = KnownFailures(self._table, settings)
        self._settings = resolve_precision(store, name, settings, self._table.latest())
        self._encoder = self._load() if needs_loading(settings) else None
        self.fingerprint = fingerprint(self._settings, self._encoder)
        self._vectors = VectorTable(store, name, self.fingerprint)
        self._engine: Engine | None = None
        self._probe: str | None = None

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, if this stage had to load it."""
        return self._encoder

    def run(self, shard: Shard) -> EmbeddingReport:
        """Embed the images of a shard that have no vector, and commit the status of its items.

        An image that cannot be decoded is an item with a status, not an error. A shard without a
        change is decided from its rows of the ledger and of the embeddings; only images that the
        latter lack are looked up in the vectors.

        Raises:
            StoreError: when the images of the shard were never fetched.
            EncoderError: when the encoder cannot be loaded or misbehaves.
            StoppedError: when `stop` is set.
        """
        started = time.monotonic()
        ledger = self._ledger.latest()
        if ledger is None:
            raise StoreError(f"{self._name}/images has no version yet; materialize it first")
        columns = ["id", IMAGE, "sha256", "status", *SIZE]
        images = self._ledger.read(ledger, shard=shard, columns=columns)
        if not images.width:
            raise StoreError(
                f"{self._name}/images has nothing for shard {shard.name} yet; materialize it first"
            )
        images = images.filter(pl.col("status") == OK).drop("status")
        base = self._table.latest()
        work = self._works.pop(shard, _ShardWork())
        generation = self._vectors.generation
        earlier = self._known.read(base, shard, self.fingerprint, generation)
        # Lost bytes may have been fetched again since `embed_available`.
        self._known.forget_lost()
        embedded_early = work.embedded
        distinct = set(images["sha256"].to_list())
        too_small = self._known.too_small(images)
        self._ensure_vectors(distinct - earlier.embedded, too_small, shard, work)
        reasons = self._known.reasons
        failures = {key: reasons[key] for key in distinct & reasons.keys()}
        rows = status_rows(images, failures, self._known.flagged[TRUNCATED])
        metadata = self._file_metadata(distinct - failures.keys(), generation)
        commit = base if self._is_committed(base, shard, rows, metadata, earlier) else None
        commit = commit or self._commit(shard, ledger, rows, metadata)
        embedded = rows.filter(pl.col("status") == OK).select("id", IMAGE, "sha256")
        rates = work.timings.images_per_second()
        engine = self._engine if rates else None
        return EmbeddingReport(
            shard=shard.name,
            version=commit.version,
            items=rows["id"].n_unique(),
            usable_items=embedded["id"].n_unique(),
            images=rows.height,
            distinct_images=len(distinct),
            embedded=work.embedded,
            reused=work.reused,
            seconds=work.seconds + time.monotonic() - started,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=base is None or commit.version != base.version,
            data_version=vectors_digest(embedded, self.fingerprint, self._vectors.rebuild_count),
            fingerprint=self.fingerprint,
            precision=self._settings.precision,
            recommended_threshold=self._settings.recommended_threshold,
            dim=self._vectors.dim,
            embedded_early=embedded_early,
            images_per_second=rates,
            device=engine.device if engine is not None else None,
            batch_size=engine.batch_size if engine is not None else None,
        )

    def embed_available(self, shard: Shard) -> int:
        """Embed the images that a shard has while it is still being fetched.

        Only vectors are committed. `run` commits the status of the items; its result does not
        depend on this method.

        Returns:
            The number of images that were encoded.
        """
        started = time.monotonic()
        ledger = self._ledger.latest()
        if ledger is None:
            return 0
        work = self._works.setdefault(shard, _ShardWork())
        base = self._table.latest()
        earlier = self._known.read(base, shard, self.fingerprint, self._vectors.generation)
        distinct: set[str] = set()
        too_small: dict[str, tuple[str, str]] = {}
        for file in ledger.files_of_shard(shard):
            if file.path in work.ledger_files:
                continue
            work.ledger_files.add(file.path)
            try:
                rows = self._ledger.read_file(file, ["sha256", "status", *SIZE])
            except CorruptFileError:
                continue  # its images are fetched again
            rows = rows.filter(pl.col("status") == OK)
            too_small |= self._known.too_small(rows)
            distinct.update(rows["sha256"].to_list())
        before = work.embedded
        try:
            self._ensure_vectors(distinct - earlier.embedded, too_small, shard, work)
        finally:
            work.seconds += time.monotonic() - started
        return work.embedded - before

    # ---- embedding ------------------------------------------------------------------

    def _ensure_vectors(
        self,
        images: set[str],
        too_small: Mapping[str, tuple[str, str]],
        shard: Shard,
        work: _ShardWork,
    ) -> None:
        """Copy or compute the vectors of images that have none and did not fail."""
        known = self._known
        if images - too_small.keys() - known.reasons.keys():
            known.add_flagged(self._vectors.flagged(), images)
        # An image that is small as well as blank is too small, as in a first run.
        known.reasons.update(too_small)
        missing = self._vectors.missing(images - known.reasons.keys())
        if missing:
            work.reused += self._vectors.copy_from_other_catalogs(
                missing, accepted_flags=known.accepted_flags
            )
            for flag, flagged in self._vectors.flagged().items():
                known.flagged[flag] |= flagged & images
        if missing:
            self._embed(sorted(missing), shard, work)

    def _embed(self, images: Sequence[str], shard: Shard, work: _ShardWork) -> None:
        engine = self._open_engine()
        engine.timings = work.timings
        pending: list[VectorRows] = []
        committed = time.monotonic()
        label = f"{self._name} shard {shard.name}"
        with (
            Progress(label, len(images), self._log) as progress,
            closing(engine.run(images, self._load_image, self._check_content)) as results,
        ):
            try:
                for result in results:
                    if isinstance(result, FailedImage):
                        status, detail = result.error.status, result.error.detail[:500]
                        self._known.reasons[result.key] = (status, detail)
                        progress.advance(kind=status)
                    else:
                        pending.append(_unit_rows(result, self._known.reasons))
                        work.embedded += len(result.keys)
                        progress.advance(len(result.keys), kind=OK)
                    if self._stop.is_set():
                        raise StoppedError
                    if time.monotonic() - committed >= COMMIT_EVERY_SECONDS:
                        self._append(concat_rows(pending))
                        pending.clear()
                        committed = time.monotonic()
            finally:
                # A run that fails or is canceled keeps what it computed.
                self._append(concat_rows(pending))

    def _append(self, rows: VectorRows) -> None:
        """Commit vectors, those of images with flags apart."""
        by_flags: dict[tuple[str, ...], list[int]] = {}
        for row, sha256 in enumerate(rows.sha256):
            flags = tuple(flag for flag in FLAGS if sha256 in self._known.flagged[flag])
            by_flags.setdefault(flags, []).append(row)
        for flags, chosen in by_flags.items():
            self._vectors.append(_select(rows, chosen), flags=flags)

    def _open_engine(self) -> Engine:
        """The engine; loads the encoder when it is first needed."""
        if self._engine is None:
            if self._encoder is None:
                self._encoder = self._load()
            size = default_batch_size(self._settings, self._encoder)
            label = f"encoder {self._settings.describe()}"
            engine = Engine(self._encoder, size, label=label)
            self._check_probe(engine, label)
            self._engine = engine
        return self._engine

    def _check_probe(self, engine: Engine, label: str) -> None:
        """Stop if the encoder gives other vectors than those in the store."""
        vectors = probe_vectors(engine)
        recorded = recorded_probe(self._store, self._name, self.fingerprint)
        if recorded is not None:
            require_same_vectors(recorded, vectors, label)
        self._probe = recorded or to_property(vectors)

    def _load(self) -> Encoder:
        return load_encoder(self._settings)

    def _load_image(self, sha256: str) -> Image.Image | Jpeg:
        try:
            data = self._store.blobs.get(sha256)
        except CorruptFileError as error:
            self._store.blobs.report_missing(sha256)
            raise ImageError(LOST_IMAGE, str(error)) from error
        encoder = self._open_engine().encoder
        jpeg = gpu_decodable_jpeg(data, encoder)
        if jpeg is not None:
            return jpeg
        image = decode(
            data,
            min_size=min_decode_size(encoder),
            accept_truncated=self._known.accepts_truncated,
        )
        if image.info.get(TRUNCATED):
            self._known.flagged[TRUNCATED].add(sha256)
        return image

    def _check_content(self, sha256: str, image: Image.Image) -> None:
        self._known.rule.require_content(image)
        if self._known.rule.keeps_blank and is_blank(image):
            self._known.flagged[BLANK].add(sha256)

    # ---- committing -----------------------------------------------------------------

    def _commit(
        self, shard: Shard, ledger: Commit, rows: pl.DataFrame, metadata: Mapping[str, Any]
    ) -> Commit:
        def change(newest: Commit | None) -> PendingCommit | None:
            if self._is_committed(newest, shard, rows, metadata, EarlierRows()):
                return None
            file = self._table.write_rows(rows).with_metadata(**metadata)
            input_version = newest.inputs.get("images", 0) if newest is not None else 0
            return PendingCommit(
                replace_shard(newest, shard, [file]),
                inputs={"images": max(ledger.version, input_version)},
                properties={
                    FINGERPRINT: self.fingerprint,
                    ENCODER: to_metadata(self._settings),
                    **self._probe_property(newest),
                },
            )

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _probe_property(self, newest: Commit | None) -> Mapping[str, str]:
        """The probe vectors that this run measured, else those of the last version."""
        if self._probe is not None:
            return {PROBE: self._probe}
        if newest is None or newest.properties[FINGERPRINT] != self.fingerprint:
            return {}
        return {PROBE: newest.properties[PROBE]} if PROBE in newest.properties else {}

    def _file_metadata(self, embedded: set[str], generation: str | None) -> dict[str, Any]:
        """The metadata of a file with these images that are ok; they had a vector in a generation.

        Args:
            embedded: sha256 of the images that are ok.
            generation: of the vectors before they were looked up, None if there were none.
        """
        if generation is None and embedded:
            self._vectors.begin_generation(first=True)
            generation = self._vectors.generation
            # Vectors that another run has dropped since are missing now.
            if self._vectors.missing(embedded):
                generation = None
        return self._known.file_metadata(self.fingerprint, generation if embedded else None)

    def _is_committed(
        self,
        commit: Commit | None,
        shard: Shard,
        rows: pl.DataFrame,
        metadata: Mapping[str, Any],
        earlier: EarlierRows,
    ) -> bool:
        if commit is None or not is_compacted(commit, shard):
            return False
        file = commit.files_of_shard(shard)[0]
        if file.metadata != metadata or file.rows != rows.height:
            return False
        try:
            committed = earlier.frames.get(file.path)
            return (self._table.read_file(file) if committed is None else committed).equals(rows)
        except CorruptFileError:
            return False


def _select(rows: VectorRows, chosen: Sequence[int]) -> VectorRows:
    keys = [rows.sha256[row] for row in chosen]
    return VectorRows(keys, rows.vectors[chosen], rows.norms[chosen])


def _unit_rows(encoded: EncodedBatch[str], failures: dict[str, tuple[str, str]]) -> VectorRows:
    """Features as unit vectors; adds those that have no direction to the failures."""
    raw = encoded.features.astype(np.float64)
    norms = np.sqrt((raw * raw).sum(axis=1))
    has_direction = np.isfinite(norms) & (norms > 0)
    for row in np.flatnonzero(~has_direction).tolist():
        failures[encoded.keys[row]] = (
            ("zero_vector", "the encoder returned a zero vector for this image")
            if norms[row] == 0
            else ("not_finite", "the features of this image overflow")
        )
    rows = np.flatnonzero(has_direction)
    unit = (raw[rows] / norms[rows, None]).astype(np.float32)
    keys = [encoded.keys[row] for row in rows.tolist()]
    return VectorRows(keys, unit, norms[rows].astype(np.float32))
