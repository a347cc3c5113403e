"""Trying failed downloads again, without waiting until they are due."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from imgsim_assets.download.ledger.table import ledger_table, utc_now, with_all_columns
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import (
    FINGERPRINT,
    encoder_from_commit,
    require_encoder,
    with_overrides,
)
from imgsim_assets.encoders.stage import embeddings_table
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.pipeline.catalog import CatalogJob, ProgressListener, refresh
from imgsim_assets.pipeline.loader import LOADED
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Failures that may have passed, or every one.
Which = Literal["retryable", "all"]
_HAS_FAILED = (pl.col("status") != OK) | pl.col("revalidation_error").is_not_null()


@dataclass(frozen=True)
class RetryReport:
    """How many failures were tried again, and how many images arrived."""

    tried: int
    recovered: int


def retry(
    store: Store,
    name: str,
    settings: DownloadSettings,
    *,
    which: Which = "retryable",
    device: str | None = None,
    weights: str | None = None,
    log: Log = silent,
    watch: ProgressListener | None = None,
) -> RetryReport:
    """Fetch a catalog's failures now, and bring its index up to what arrives.

    Images that are there but could not be refreshed count as failures. What arrives is embedded
    by the encoder that was recorded, on `device` and with the weights file at `weights` where
    they are given. Raises StoreError when the catalog has not been fetched and embedded yet,
    was filled by a loader, or has vectors of other weights, and EncoderError when the weights
    file is not there; nothing has been fetched then.
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
            "its --loader again, which tries all failures again"
        )
    failed = _failed(ledger, commit, which)
    if not failed.height:
        return RetryReport(0, 0)
    encoder = with_overrides(encoder_from_commit(embedded), device, weights)
    require_encoder(encoder, embedded.properties[FINGERPRINT], f"the vectors of {name}")
    if which == "retryable":
        ledger.commit(lambda newest: _due_now(ledger, newest))
    shards = max(file.shard_count or 1 for file in commit.files_with_role())
    job = CatalogJob(name, None, shards, encoder, settings, retry=which)
    refresh(store, [job], log=log, watch=watch)
    IndexStage(store, name).run()
    good = with_all_columns(ledger.read(ledger.latest() or commit)).filter(~_HAS_FAILED)
    return RetryReport(failed.height, failed.join(good, on="id", how="semi").height)


def _failed(ledger: Table, commit: Commit, which: Which) -> pl.DataFrame:
    rows = with_all_columns(ledger.read(commit))
    return rows.filter(_HAS_FAILED if which == "all" else pl.col("retryable"))


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
