"""Retrying failed downloads at once, without waiting until they are due."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from imgsim_assets.download.ledger.table import (
    IMAGE_KEY,
    ledger_table,
    utc_now,
    with_all_columns,
)
from imgsim_assets.download.recorded import RecordedSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import (
    FINGERPRINT,
    encoder_from_commit,
    require_encoder,
    require_named_factory,
    require_named_program,
    with_overrides,
)
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.invariants import update_index
from imgsim_assets.pipeline.loader import LOADED
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.shards import shards_of
from imgsim_assets.progress import Log, ProgressListener, silent
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Failures that may have passed, or all of them.
RetrySelection = Literal["retryable", "all"]
_HAS_FAILED = (pl.col("status") != OK) | pl.col("revalidation_error").is_not_null()


@dataclass(frozen=True)
class RetryReport:
    """How many images that had failed were retried, and how many of them recovered."""

    retried: int
    recovered: int


def retry_failed(
    store: Store,
    name: str,
    settings: DownloadSettings,
    *,
    declared: DownloadSettings | None = None,
    retry: RetrySelection = "retryable",
    device: str | None = None,
    weights: str | None = None,
    factory: str | None = None,
    log: Log = silent,
    listener: ProgressListener | None = None,
) -> RetryReport:
    """Fetch a catalog's failed images now, and add the fetched ones to its index.

    An image that is there but could not be revalidated counts as failed. New images are embedded
    by the encoder that the store recorded.

    Args:
        store: the store.
        name: the catalog.
        settings: the fields that are set replace those of the catalog's own settings.
        declared: the catalog's own settings; default: those that the store has recorded, which
            permit nothing.
        retry: `retryable` for failures that may have passed, or `all`.
        device: where the encoder runs, in place of the recorded device.
        weights: path of the encoder's weights file, in place of the recorded path.
        factory: the factory of the encoder, which runs only if it is named here.
        log: receives progress messages.
        listener: receives the progress.

    Raises:
        StoreError: when the catalog has no images and embeddings yet, was filled by a loader, or
            has vectors of other weights. Nothing has been fetched then.
        EncoderError: when the weights file is missing. Nothing has been fetched then.
        SettingsError: when the encoder's factory is not named, or when the catalog's downloads
            needed headers, a proxy or hosts that neither `settings` nor `declared` has. Nothing has
            been fetched then.
    """
    ledger = ledger_table(store, name)
    commit = ledger.latest()
    embedded = embeddings_table(store, name).latest()
    if commit is None or embedded is None:
        raise StoreError(
            f"{name} has no images and embeddings in {store.url} yet; materialize them first"
        )
    if commit.properties.get(LOADED):
        raise StoreError(
            f"the images of {name} came from a loader, not from their URLs; run the match with "
            "its --loader again, retry tries all failures again"
        )
    failed = _failed(ledger, commit, retry)
    if not failed.height:
        return RetryReport(0, 0)
    download = _download_settings(commit, name, settings, declared)
    encoder = with_overrides(encoder_from_commit(embedded), device, weights)
    vectors = f"the vectors of {name}"
    require_named_factory(encoder, factory, vectors)
    require_named_program(encoder, weights, vectors)
    require_encoder(encoder, embedded.properties[FINGERPRINT], vectors)
    if retry == "retryable":
        ledger.commit(lambda newest: _due_now(ledger, newest))
    pipeline = CatalogPipeline.from_store(
        store,
        name,
        shards=len(shards_of(commit)),
        encoder=encoder,
        download=download,
        retry=retry,
        log=log,
    )
    fetch_and_embed([pipeline], read_sources=False, listener=listener)
    update_index(store, name)
    intact = with_all_columns(ledger.read(ledger.latest() or commit)).filter(~_HAS_FAILED)
    return RetryReport(failed.height, failed.join(intact, on=IMAGE_KEY, how="semi").height)


def _download_settings(
    commit: Commit, name: str, given: DownloadSettings, declared: DownloadSettings | None
) -> DownloadSettings:
    """The catalog's settings with those that were given."""
    if declared is not None:
        return declared.with_overrides(given)
    recorded = RecordedSettings.from_properties(commit.properties)
    settings = recorded.settings.with_overrides(given)
    missing = recorded.missing(settings)
    if missing:
        raise SettingsError(
            f"the downloads of {name} used settings that the store does not contain, and nothing "
            f"was requested without them; run the command in the project that declares {name}, or "
            f"add {' '.join(missing)}"
        )
    return settings


def _failed(ledger: Table, commit: Commit, retry: RetrySelection) -> pl.DataFrame:
    rows = with_all_columns(ledger.read(commit))
    return rows.filter(_HAS_FAILED if retry == "all" else pl.col("retryable"))


def _due_now(ledger: Table, base: Commit | None) -> PendingCommit | None:
    """The ledger with every retryable failure due at once, file by file."""
    if base is None:
        return None
    files = []
    for file in base.files:
        rows = ledger.read_file(file)
        if rows["retryable"].any():
            due = pl.when("retryable").then(pl.lit(utc_now())).otherwise("next_retry_at")
            moved = rows.with_columns(due.cast(rows.schema["next_retry_at"]).alias("next_retry_at"))
            files.append(file.with_content(ledger.write_rows(moved)))
        else:
            files.append(replace(file))
    return PendingCommit(files, inputs=base.inputs, properties=base.properties)
