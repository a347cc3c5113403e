"""The embeddings stage: every image of a shard gets its vector, each distinct one once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.download.ledger import ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    load_encoder,
    needs_loading,
)
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import NO_VECTORS, VectorRows, VectorTable
from imgsim_assets.errors import CorruptFileError, EncoderError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.images.header import ImageError
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Commit, Draft, Table, is_complete, replace_shard

SCHEMA = {"id": pl.String, "sha256": pl.String, "status": pl.String, "detail": pl.String}
FINGERPRINT = "fingerprint"
# An image whose bytes are gone is fetched again, so this failure must not stick.
LOST = "lost_image"
COMMIT_EVERY_SECONDS = 5.0
_DECODERS = 4


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run did for one shard.

    `embedded` are forward passes, `borrowed` vectors came from other catalogues, the rest
    were there already.
    """

    shard: str
    version: int
    items: int
    images: int
    embedded: int
    borrowed: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str
    fingerprint: str


@dataclass
class _Outcomes:
    """Why images have no vector, by sha256: (status, detail)."""

    failures: dict[str, tuple[str, str]] = field(default_factory=dict)


def embeddings_table(store: Store, name: str) -> Table:
    """`<name>/embeddings`: id, sha256, status, detail of every item that has an image."""
    return store.table(f"{name}/embeddings", key="id")


class EmbeddingStage:
    """Embeds the shards of one catalogue; the encoder is loaded when first needed."""

    def __init__(
        self, store: Store, name: str, settings: EncoderSettings, *, log: Log = silent
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._log = log
        self._ledger = ledger_table(store, name)
        self._table = embeddings_table(store, name)
        self._encoder = load_encoder(settings) if needs_loading(settings) else None
        self.fingerprint = fingerprint(settings, self._encoder)
        self._vectors = VectorTable(store, name, self.fingerprint)

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, if this stage had to load it."""
        return self._encoder

    def run(self, shard: Shard) -> EmbeddingReport:
        """Embed what a shard's images lack and commit their states.

        A picture that cannot be decoded is a status. Raises StoreError when the images were
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
        outcomes = _Outcomes(self._known_failures(base, shard))
        distinct = set(images["sha256"].to_list())
        missing = distinct - self._vectors.keys() - outcomes.failures.keys()
        borrowed = self._vectors.borrow(missing) if missing else 0
        embedded = self._embed(sorted(missing), shard, outcomes) if missing else 0
        commit = self._commit(base, shard, ledger, _rows(images, outcomes))
        rows = self._table.read(commit, shard=shard)
        return EmbeddingReport(
            shard=shard.name,
            version=commit.version,
            items=rows.height,
            images=len(distinct),
            embedded=embedded,
            borrowed=borrowed,
            seconds=time.monotonic() - started,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=base is None or commit.version != base.version,
            data_version=self._data_version(rows),
            fingerprint=self.fingerprint,
        )

    def _known_failures(self, base: Commit | None, shard: Shard) -> dict[str, tuple[str, str]]:
        """What this encoder's earlier runs could not embed, and need not try again."""
        if base is None:
            return {}
        own = [file for file in base.files if file.note.get(FINGERPRINT) == self.fingerprint]
        known: dict[str, tuple[str, str]] = {}
        for file in own:
            try:
                rows = self._table.read_file(file)
            except CorruptFileError:
                continue  # what it knew is found out again
            failed = rows.filter(~pl.col("status").is_in([OK, LOST]))
            for sha256, status, detail in failed.select("sha256", "status", "detail").iter_rows():
                known[sha256] = (status, detail)
        return known

    # ---- embedding ------------------------------------------------------------------

    def _embed(self, missing: Sequence[str], shard: Shard, outcomes: _Outcomes) -> int:
        encoder = self._loaded()
        batch_size = default_batch_size(self._settings, encoder)
        pending: list[VectorRows] = []
        embedded = 0
        committed = time.monotonic()
        label = f"{self._name} shard {shard.name}"
        with (
            Progress(label, len(missing), self._log) as progress,
            ThreadPoolExecutor(_DECODERS, "decode") as pool,
        ):
            prepared = self._prepared(pool, encoder, missing, outcomes, progress)
            try:
                while batch := list(islice(prepared, batch_size)):
                    pending.append(self._encode(encoder, batch, outcomes))
                    embedded += len(batch)
                    progress.advance(len(batch), kind=OK)
                    if time.monotonic() - committed >= COMMIT_EVERY_SECONDS:
                        self._vectors.append(_joined(pending))
                        pending.clear()
                        committed = time.monotonic()
            finally:
                # Also when the run fails or is cancelled: what was computed is kept.
                pool.shutdown(cancel_futures=True)
                self._vectors.append(_joined(pending))
        return embedded

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = load_encoder(self._settings)
        return self._encoder

    def _prepared(
        self,
        pool: ThreadPoolExecutor,
        encoder: Encoder,
        missing: Sequence[str],
        outcomes: _Outcomes,
        progress: Progress,
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Decoded and prepared images in the given order, a bounded number ahead."""
        ahead: list[tuple[str, Future[NDArray[Any]]]] = []
        remaining = iter(missing)
        batch_size = default_batch_size(self._settings, encoder)
        while True:
            ahead.extend(
                (sha256, pool.submit(self._prepare, encoder, sha256))
                for sha256 in islice(remaining, 2 * batch_size + _DECODERS - len(ahead))
            )
            if not ahead:
                return
            sha256, future = ahead.pop(0)
            try:
                yield sha256, future.result()
            except ImageError as error:
                outcomes.failures[sha256] = (error.status, error.detail[:500])
                progress.advance(kind=error.status)

    def _prepare(self, encoder: Encoder, sha256: str) -> NDArray[Any]:
        try:
            data = self._store.blobs.get(sha256)
        except CorruptFileError as error:
            self._store.blobs.report_lost(sha256)
            raise ImageError(
                LOST, "its bytes are gone or damaged; they are fetched anew"
            ) from error
        return encoder.prepare(decode(data))

    def _encode(
        self, encoder: Encoder, batch: Sequence[tuple[str, NDArray[Any]]], outcomes: _Outcomes
    ) -> VectorRows:
        try:
            stacked = np.stack([array for _, array in batch])
        except ValueError as error:
            raise EncoderError(
                f"encoder {self._settings.describe()} prepares pictures in different shapes "
                f"({error}); it must give the same for every picture"
            ) from error
        raw = np.asarray(encoder.encode(stacked))
        if raw.shape != (len(batch), encoder.dim):
            raise EncoderError(
                f"encoder {self._settings.describe()} returned an array of shape {raw.shape} for "
                f"{len(batch)} pictures; it must be ({len(batch)}, {encoder.dim})"
            )
        raw = raw.astype(np.float64)
        norms = np.sqrt((raw * raw).sum(axis=1))
        usable = np.isfinite(norms) & (norms > 0)
        for position in np.flatnonzero(~usable).tolist():
            blank = norms[position] == 0
            outcomes.failures[batch[position][0]] = (
                ("zero_vector", "the encoder sees nothing in this picture")
                if blank
                else ("not_finite", "the encoder's numbers overflow on this picture")
            )
        kept = np.flatnonzero(usable)
        unit = (raw[kept] / norms[kept, None]).astype(np.float32)
        return VectorRows(
            [batch[at][0] for at in kept.tolist()], unit, norms[kept].astype(np.float32)
        )

    # ---- committing -----------------------------------------------------------------

    def _commit(
        self, base: Commit | None, shard: Shard, ledger: Commit, rows: pl.DataFrame
    ) -> Commit:
        def change(newest: Commit | None) -> Draft | None:
            if newest is not None and self._holds(newest, shard, rows):
                return None
            file = self._table.write_rows(rows).noted(**{FINGERPRINT: self.fingerprint})
            seen = newest.inputs.get("images", 0) if newest is not None else 0
            return Draft(
                replace_shard(newest, shard, [file]),
                inputs={"images": max(ledger.version, seen)},
                properties={
                    FINGERPRINT: self.fingerprint,
                    "encoder": self._settings.model_dump(mode="json", exclude={"device"}),
                },
            )

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _holds(self, commit: Commit, shard: Shard, rows: pl.DataFrame) -> bool:
        if not is_complete(commit, shard):
            return False
        own = commit.of_shard(shard)[0]
        if own.note.get(FINGERPRINT) != self.fingerprint or own.rows != rows.height:
            return False
        try:
            return self._table.read_file(own).equals(rows)
        except CorruptFileError:
            return False

    def _data_version(self, rows: pl.DataFrame) -> str:
        """A digest of which item has which vector of which encoder."""
        have = rows.filter(pl.col("status") == OK).sort("id").select("id", "sha256")
        return rows_digest(have, self.fingerprint)


def _rows(images: pl.DataFrame, outcomes: _Outcomes) -> pl.DataFrame:
    """The shard's states: ok, or why there is no vector; sorted by id."""
    failures = pl.DataFrame(
        [(sha256, status, detail) for sha256, (status, detail) in outcomes.failures.items()],
        schema={"sha256": pl.String, "status": pl.String, "detail": pl.String},
        orient="row",
    )
    return (
        images.join(failures, on="sha256", how="left")
        .with_columns(pl.col("status").fill_null(OK))
        .select(list(SCHEMA))
        .sort("id")
    )


def _joined(rows: Sequence[VectorRows]) -> VectorRows:
    if not rows:
        return NO_VECTORS
    return VectorRows(
        [sha256 for part in rows for sha256 in part.sha256],
        np.concatenate([part.vectors for part in rows]),
        np.concatenate([part.norms for part in rows]),
    )


def embed(
    store: Store,
    name: str,
    settings: EncoderSettings,
    shards: Sequence[Shard],
    *,
    log: Log = silent,
) -> list[EmbeddingReport]:
    """Run the embeddings stage for several shards, loading the encoder once at most."""
    stage = EmbeddingStage(store, name, settings, log=log)
    return [stage.run(shard) for shard in shards]
