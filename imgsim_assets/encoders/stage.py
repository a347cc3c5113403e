"""The embeddings stage: every image of a shard gets its vector, each distinct one once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

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
    recommended_threshold,
)
from imgsim_assets.encoders.engine import EncodedBatch, Engine, FailedImage, StageTimings
from imgsim_assets.encoders.precision import resolve_precision
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT, to_metadata
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import VectorRows, VectorTable, concat_rows, vectors_digest
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.header import ImageError
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit, PendingCommit, is_compacted, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {"id": pl.String, "sha256": pl.String, "status": pl.String, "detail": pl.String}
# An image whose bytes are gone is fetched again, so this failure must not stick.
LOST_IMAGE = "lost_image"
COMMIT_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run did for one shard.

    `embedded` are forward passes, `embedded_early` of them while the shard was still being fetched;
    `reused` vectors came from other catalogs, the rest were there already. `seconds` are
    those of work. `images_per_second` are images a second by part (see Effort); without a forward pass it
    is empty, and `device` and `batch_size` are unknown.
    """

    shard: str
    version: int
    items: int
    images: int
    embedded: int
    reused: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str
    fingerprint: str
    precision: str
    recommended_threshold: float
    dim: int | None = None
    embedded_early: int = 0
    images_per_second: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | None = None


class StoppedError(Exception):
    """Raised by a stage that was asked to stop; what it computed is kept."""


@dataclass
class _Work:
    """What has been done for a shard so far, in its run and ahead of it.

    `read` are the files of the ledger that were looked at ahead.
    """

    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0
    timings: StageTimings = field(default_factory=StageTimings)
    read: set[str] = field(default_factory=set)


def embeddings_table(store: Store, name: str) -> Table:
    """`<name>/embeddings`: id, sha256, status, detail of every item that has an image."""
    return store.table(f"{name}/embeddings", key="id")


def latest_embeddings(store: Store, name: str) -> Commit:
    """The newest commit of a catalog's embeddings; raises StoreError where there is none."""
    commit = embeddings_table(store, name).latest()
    if commit is None:
        raise StoreError(f"{name}/embeddings has no version yet; materialize it first")
    return commit


class EmbeddingStage:
    """Embeds the shards of one catalog; the encoder is loaded when first needed.

    `on_start` is called before that. Once `stop` is set, from whatever thread, the stage raises
    StoppedError within a batch.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: EncoderSettings,
        *,
        log: Log = silent,
        on_start: Callable[[], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._log = log
        self._on_start = on_start
        self._stop = stop or threading.Event()
        self._works: dict[Shard, _Work] = {}
        # Why images have no vector, by sha256: (status, detail), and the files that say so.
        self._failures: dict[str, tuple[str, str]] = {}
        self._learnt: set[str] = set()
        self._ledger = ledger_table(store, name)
        self._table = embeddings_table(store, name)
        self._settings = resolve_precision(store, name, settings, self._table.latest())
        self._encoder = self._loaded() if needs_loading(settings) else None
        self.fingerprint = fingerprint(self._settings, self._encoder)
        self._vectors = VectorTable(store, name, self.fingerprint)
        self._engine: Engine | None = None

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, if this stage had to load it."""
        return self._encoder

    def run(self, shard: Shard) -> EmbeddingReport:
        """Embed what a shard's images lack and commit their states.

        An image that cannot be decoded is a status. Raises StoreError when the images were
        never fetched, and EncoderError when the encoder cannot be loaded or misbehaves.
        """
        started = time.monotonic()
        ledger = self._ledger.latest()
        if ledger is None:
            raise StoreError(f"{self._name}/images has no version yet; materialize it first")
        images = self._ledger.read(ledger, shard=shard, columns=["id", "sha256", "status"])
        if not images.width:
            raise StoreError(
                f"{self._name}/images has nothing for shard {shard.name} yet; materialize it first"
            )
        images = images.filter(pl.col("status") == OK).select("id", "sha256")
        base = self._table.latest()
        work = self._works.pop(shard, _Work())
        self._learn_failures(base)
        # The bytes of an image that was lost while it was embedded ahead may be back.
        self._failures = {key: why for key, why in self._failures.items() if why[0] != LOST_IMAGE}
        embedded_early = work.embedded
        distinct = set(images["sha256"].to_list())
        self._complete(distinct, shard, work)
        commit = self._commit(base, shard, ledger, _rows(images, self._failures_among(distinct)))
        rows = self._table.read(commit, shard=shard)
        return EmbeddingReport(
            shard=shard.name,
            version=commit.version,
            items=rows.height,
            images=len(distinct),
            embedded=work.embedded,
            reused=work.reused,
            seconds=work.seconds + time.monotonic() - started,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=base is None or commit.version != base.version,
            data_version=self._data_version(rows),
            fingerprint=self.fingerprint,
            precision=self._settings.precision,
            recommended_threshold=recommended_threshold(self._settings),
            dim=self._vectors.dim,
            embedded_early=embedded_early,
            **self._performance(work),
        )

    def embed_available(self, shard: Shard) -> int:
        """Embed what a shard that is still being fetched has so far; returns how many images.

        Only vectors are committed. The states of the items follow with `run`, which does what
        is left and ends as it would have without this.
        """
        started = time.monotonic()
        ledger = self._ledger.latest()
        if ledger is None:
            return 0
        self._learn_failures(self._table.latest())
        work = self._works.setdefault(shard, _Work())
        distinct: set[str] = set()
        for file in ledger.files_of_shard(shard):
            if file.path in work.read:
                continue
            work.read.add(file.path)
            try:
                rows = self._ledger.read_file(file, ["sha256", "status"])
            except CorruptFileError:
                continue  # what it held is fetched anew
            distinct.update(rows.filter(pl.col("status") == OK)["sha256"].to_list())
        before = work.embedded
        try:
            self._complete(distinct, shard, work)
        finally:
            work.seconds += time.monotonic() - started
        return work.embedded - before

    def _learn_failures(self, base: Commit | None) -> None:
        """Take in what this encoder could not embed before, and need not try again.

        The same image may stand in any shard; each file is read once in the life of the stage.
        """
        files = base.files if base is not None else ()
        for file in files:
            if file.path in self._learnt or file.metadata.get(FINGERPRINT) != self.fingerprint:
                continue
            self._learnt.add(file.path)
            try:
                rows = self._table.read_file(file)
            except CorruptFileError:
                continue  # what it knew is found out again
            failed = rows.filter(~pl.col("status").is_in([OK, LOST_IMAGE]))
            for sha256, status, detail in failed.select("sha256", "status", "detail").iter_rows():
                self._failures[sha256] = (status, detail)

    def _failures_among(self, distinct: set[str]) -> dict[str, tuple[str, str]]:
        return {key: self._failures[key] for key in distinct & self._failures.keys()}

    # ---- embedding ------------------------------------------------------------------

    def _complete(self, wanted: set[str], shard: Shard, work: _Work) -> None:
        """Find or compute the vectors of images, as far as that is possible."""
        missing = self._vectors.missing(wanted - self._failures.keys())
        if missing:
            work.reused += self._vectors.copy_from_other_catalogs(missing)
        if missing:
            self._embed(sorted(missing), shard, work)

    def _embed(self, missing: Sequence[str], shard: Shard, work: _Work) -> None:
        engine = self._started()
        engine.timings = work.timings

        def load(sha256: str) -> Image.Image | Jpeg:
            return self._image(sha256, engine.encoder)

        pending: list[VectorRows] = []
        committed = time.monotonic()
        label = f"{self._name} shard {shard.name}"
        with (
            Progress(label, len(missing), self._log) as progress,
            closing(engine.run(missing, load)) as results,
        ):
            try:
                for result in results:
                    if isinstance(result, FailedImage):
                        status, detail = result.error.status, result.error.detail[:500]
                        self._failures[result.key] = (status, detail)
                        progress.advance(kind=status)
                    else:
                        pending.append(_unit_rows(result, self._failures))
                        work.embedded += len(result.keys)
                        progress.advance(len(result.keys), kind=OK)
                    if self._stop.is_set():
                        raise StoppedError
                    if time.monotonic() - committed >= COMMIT_EVERY_SECONDS:
                        self._vectors.append(concat_rows(pending))
                        pending.clear()
                        committed = time.monotonic()
            finally:
                # Also when the run fails or is cancelled: what was computed is kept.
                self._vectors.append(concat_rows(pending))

    def _started(self) -> Engine:
        """The engine, with the encoder loaded when it is first needed."""
        if self._engine is None:
            if self._encoder is None:
                self._encoder = self._loaded()
            size = default_batch_size(self._settings, self._encoder)
            what = f"encoder {self._settings.describe()}"
            self._engine = Engine(self._encoder, size, what=what)
        return self._engine

    def _loaded(self) -> Encoder:
        if self._on_start is not None:
            self._on_start()
        return load_encoder(self._settings)

    def _performance(self, work: _Work) -> dict[str, Any]:
        """How a shard's images were embedded, for the report."""
        rates = work.timings.images_per_second()
        if self._engine is None or not rates:
            return {}
        return {
            "images_per_second": rates,
            "device": self._engine.device,
            "batch_size": self._engine.batch_size,
        }

    def _image(self, sha256: str, encoder: Encoder) -> Image.Image | Jpeg:
        try:
            data = self._store.blobs.get(sha256)
        except CorruptFileError as error:
            self._store.blobs.report_missing(sha256)
            raise ImageError(
                LOST_IMAGE, "its bytes are gone or damaged; they are fetched anew"
            ) from error
        return gpu_decodable_jpeg(data, encoder) or decode(data, min_size=min_decode_size(encoder))

    # ---- committing -----------------------------------------------------------------

    def _commit(
        self, base: Commit | None, shard: Shard, ledger: Commit, rows: pl.DataFrame
    ) -> Commit:
        def change(newest: Commit | None) -> PendingCommit | None:
            if newest is not None and self._holds(newest, shard, rows):
                return None
            file = self._table.write_rows(rows).with_metadata(**{FINGERPRINT: self.fingerprint})
            seen = newest.inputs.get("images", 0) if newest is not None else 0
            return PendingCommit(
                replace_shard(newest, shard, [file]),
                inputs={"images": max(ledger.version, seen)},
                properties={
                    FINGERPRINT: self.fingerprint,
                    ENCODER: to_metadata(self._settings),
                },
            )

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _holds(self, commit: Commit, shard: Shard, rows: pl.DataFrame) -> bool:
        if not is_compacted(commit, shard):
            return False
        own = commit.files_of_shard(shard)[0]
        if own.metadata.get(FINGERPRINT) != self.fingerprint or own.rows != rows.height:
            return False
        try:
            return self._table.read_file(own).equals(rows)
        except CorruptFileError:
            return False

    def _data_version(self, rows: pl.DataFrame) -> str:
        """A digest of which item has which vector of which encoder."""
        have = rows.filter(pl.col("status") == OK).sort("id").select("id", "sha256")
        return vectors_digest(have, self.fingerprint, self._vectors.rebuild_count)


def _rows(images: pl.DataFrame, failures: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """The shard's states: ok, or why there is no vector; sorted by id."""
    reasons = pl.DataFrame(
        [(sha256, status, detail) for sha256, (status, detail) in failures.items()],
        schema={"sha256": pl.String, "status": pl.String, "detail": pl.String},
        orient="row",
    )
    return (
        images.join(reasons, on="sha256", how="left")
        .with_columns(pl.col("status").fill_null(OK))
        .select(list(SCHEMA))
        .sort("id")
    )


def _unit_rows(encoded: EncodedBatch[str], failures: dict[str, tuple[str, str]]) -> VectorRows:
    """Features as unit vectors; those that have no direction become failures."""
    raw = encoded.features.astype(np.float64)
    norms = np.sqrt((raw * raw).sum(axis=1))
    usable = np.isfinite(norms) & (norms > 0)
    for position in np.flatnonzero(~usable).tolist():
        blank = norms[position] == 0
        failures[encoded.keys[position]] = (
            ("zero_vector", "the encoder sees nothing in this image")
            if blank
            else ("not_finite", "the encoder's numbers overflow on this image")
        )
    kept = np.flatnonzero(usable)
    unit = (raw[kept] / norms[kept, None]).astype(np.float32)
    return VectorRows(
        [encoded.keys[at] for at in kept.tolist()], unit, norms[kept].astype(np.float32)
    )
