"""The embeddings stage: one unit vector for each distinct image of a shard."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.copied_vectors import copy_from_other_catalogs
from imgsim_assets.encoders.embeddings_writer import EmbeddingsWriter
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    load_encoder,
    needs_loading,
)
from imgsim_assets.encoders.engine import Engine, FailedImage
from imgsim_assets.encoders.image_loader import ImageLoader
from imgsim_assets.encoders.known_failures import SIZE, KnownFailures
from imgsim_assets.encoders.precision import resolve_precision
from imgsim_assets.encoders.probe import (
    probe_vectors,
    recorded_probe,
    require_same_vectors,
    to_property,
)
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import embeddings_table, status_rows
from imgsim_assets.encoders.timings import StageTimings
from imgsim_assets.encoders.vector_files import TRUNCATED
from imgsim_assets.encoders.vector_writer import VectorWriter
from imgsim_assets.encoders.vectors import VectorTable, vectors_digest
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


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
        self._writer = EmbeddingsWriter(self._table, self._settings, self.fingerprint)
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
        commit = self._writer.commit(
            shard, rows, metadata, earlier, base=base, ledger=ledger, probe=self._probe
        )
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
            data_version=vectors_digest(
                RowBlocks.of(embedded), self.fingerprint, self._vectors.rebuild_count
            ),
            encoder=self._settings.describe(),
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
            work.reused += copy_from_other_catalogs(
                self._store, self._vectors, missing, accepted_flags=known.accepted_flags
            )
            for flag, flagged in self._vectors.flagged().items():
                known.flagged[flag] |= flagged & images
        if missing:
            self._embed(sorted(missing), shard, work)

    def _embed(self, images: Sequence[str], shard: Shard, work: _ShardWork) -> None:
        engine = self._open_engine()
        loader = ImageLoader(self._store.blobs, engine.encoder, self._known)
        engine.timings = work.timings
        label = f"{self._name} shard {shard.name}"
        with (
            Progress(label, len(images), self._log) as progress,
            VectorWriter(self._vectors, self._known) as writer,
            closing(engine.run(images, loader.load, loader.check)) as results,
        ):
            for result in results:
                if isinstance(result, FailedImage):
                    status, detail = result.error.status, result.error.detail[:500]
                    self._known.reasons[result.key] = (status, detail)
                    progress.advance(kind=status)
                else:
                    work.embedded += len(result.keys)
                    writer.add(result)
                    progress.advance(len(result.keys), kind=OK)
                if self._stop.is_set():
                    raise StoppedError

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
