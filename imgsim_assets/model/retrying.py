"""Trying failed downloads again, without waiting until they are due."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from imgsim_assets.download.ledger import ledger_table, utc_now
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import embeddings_table
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import update_index
from imgsim_assets.model.pipeline import CatalogueJob, refresh
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Commit, Draft, Table


@dataclass(frozen=True)
class Retried:
    """How many transient failures were tried again, and how many pictures arrived."""

    tried: int
    recovered: int


def retry(store: Store, name: str, settings: DownloadSettings, *, log: Log = silent) -> Retried:
    """Fetch a catalogue's transient failures now, and bring its index up to what arrives.

    Raises StoreError when the catalogue has not been fetched and embedded yet.
    """
    ledger = ledger_table(store, name)
    commit = ledger.latest()
    embedded = embeddings_table(store, name).latest()
    if commit is None or embedded is None:
        raise StoreError(
            f"{name} has no images and embeddings in {store.url} yet; materialize them first"
        )
    failed = _transient(ledger, commit)
    if not failed.height:
        return Retried(0, 0)
    ledger.commit(lambda newest: _due_now(ledger, newest))
    shards = max(file.layout or 1 for file in commit.with_role())
    encoder = EncoderSettings.model_validate(embedded.properties["encoder"])
    refresh(store, [CatalogueJob(name, None, shards, encoder, settings)], log=log)
    update_index(store, name)
    newest = ledger.latest() or commit
    now = ledger.read(newest).filter(pl.col("status") == OK)
    return Retried(failed.height, failed.join(now, on="id", how="semi").height)


def _transient(ledger: Table, commit: Commit) -> pl.DataFrame:
    return ledger.read(commit).filter(pl.col("transient"))


def _due_now(ledger: Table, base: Commit | None) -> Draft | None:
    """The ledger with every transient failure due at once, file by file."""
    if base is None:
        return None
    files = []
    for file in base.files:
        rows = ledger.read_file(file)
        if rows["transient"].any():
            due = pl.when("transient").then(pl.lit(utc_now())).otherwise("next_retry_at")
            moved = rows.with_columns(due.cast(rows.schema["next_retry_at"]).alias("next_retry_at"))
            files.append(file.with_content(ledger.write_rows(moved)))
        else:
            files.append(replace(file))
    return Draft(files, inputs=base.inputs, properties=base.properties)
