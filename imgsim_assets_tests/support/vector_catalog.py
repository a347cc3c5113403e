"""A catalog of given vectors in a store, without images."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vectors import VectorRows, VectorTable
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vectors import Floats

_FINGERPRINT = "f" * 16
_ROWS_PER_APPEND = 5000


def write_catalog(store: Store, name: str, vectors: Floats) -> None:
    """Write the embeddings and the index of a catalog: one image per item."""
    table = VectorTable(store, name, _FINGERPRINT)
    ids, keys = _images(name, len(vectors))
    for start in range(0, len(keys), _ROWS_PER_APPEND):
        part = slice(start, start + _ROWS_PER_APPEND)
        norms = np.ones(len(keys[part]), np.float32)
        table.append(VectorRows(keys[part], vectors[part], norms))
    frame = pl.DataFrame({"id": ids, "sha256": keys})
    frame = frame.with_columns(
        pl.lit(0, pl.Int32).alias("image"),
        pl.lit("ok").alias("status"),
        pl.lit(False).alias("truncated"),
        pl.lit(None, pl.String).alias("detail"),
    ).select(list(SCHEMA))
    embeddings = embeddings_table(store, name)
    file = embeddings.write_rows(frame).with_metadata(**{FINGERPRINT: _FINGERPRINT})
    properties = {FINGERPRINT: _FINGERPRINT, "encoder": {"name": "hog_color"}}
    embeddings.commit(lambda _: PendingCommit([file], {"images": 1}, properties))
    IndexStage(store, name).run()


def write_ledger(store: Store, name: str, count: int) -> None:
    """Write the ledger of a catalog of so many vectors, which orders the items of groups."""
    table = ledger_table(store, name)
    rows = [
        {"id": item, "image": 0, "url": f"https://images.example/{item}", "status": OK}
        | {"sha256": sha256, "width": 100, "height": 100, "bytes": 1000 + number % 7}
        for number, (item, sha256) in enumerate(zip(*_images(name, count), strict=True))
    ]
    file = table.write_rows(ledger_frame(rows))
    table.commit(lambda _: PendingCommit([file], {"items": 1}, PROPERTIES))


def _images(name: str, count: int) -> tuple[list[str], list[str]]:
    """The ids and the sha256 of a catalog's images."""
    keys = [hashlib.sha256(f"{name} {n}".encode()).hexdigest() for n in range(count)]
    return [f"item{n:09d}" for n in range(count)], keys
