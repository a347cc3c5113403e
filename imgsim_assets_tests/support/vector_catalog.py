"""A catalog of given vectors in a store, without images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vectors import Floats

_FINGERPRINT = "f" * 16
_ROWS_PER_APPEND = 5000


def write_catalog(store: Store, name: str, vectors: Floats, changed: Sequence[int] = ()) -> None:
    """Write the embeddings and the index of a catalog: one image per item.

    The items whose numbers are `changed` have other images than in a catalog without any.
    """
    table = VectorTable(store, name, _FINGERPRINT)
    ids, keys = _images(name, len(vectors))
    for number in changed:
        keys[number] = _sha256(f"{name} {number} changed")
    embeddings = embeddings_table(store, name)
    latest = embeddings.latest()
    new = np.arange(len(keys)) if latest is None else np.array(changed, np.int64)
    for start in range(0, len(new), _ROWS_PER_APPEND):
        part = new[start : start + _ROWS_PER_APPEND]
        norms = np.ones(len(part), np.float32)
        table.append(VectorRows([keys[row] for row in part], vectors[part], norms))
    frame = pl.DataFrame({"id": ids, "sha256": keys})
    frame = frame.with_columns(
        pl.lit(0, pl.Int32).alias("image"),
        pl.lit("ok").alias("status"),
        pl.lit(False).alias("truncated"),
        pl.lit(None, pl.String).alias("detail"),
    ).select(list(SCHEMA))
    file = embeddings.write_rows(frame).with_metadata(**{FINGERPRINT: _FINGERPRINT})
    properties = {FINGERPRINT: _FINGERPRINT, "encoder": {"name": "hog_color"}}
    version = 1 if latest is None else latest.version + 1
    embeddings.commit(lambda _: PendingCommit([file], {"images": version}, properties))
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
    keys = [_sha256(f"{name} {n}") for n in range(count)]
    return [f"item{n:09d}" for n in range(count)], keys


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
