"""What one shard's run of the embeddings reads where nothing changed, by the size of the catalog.

python -m benchmarks.no_op_run [--rows 8000 32000 128000] [--rows-per-shard 500] [--dim 128]

The run is that of Dagster: the stage and the check that follows it. `rows` is what it reads of
files of rows, keys and vectors; `commits` are the lists of files, which have an entry per shard.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time

import numpy as np

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table, utc_now
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.pipeline.invariants import embeddings_invariants
from imgsim_assets.storage.commit import DataFile, PendingCommit
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.counting_files import CountingFiles

_ENCODER = EncoderSettings(name=HOG_COLOR)
_ROWS_PER_APPEND = 4000


def _fill(store: Store, rows: int, shards: int, dim: int) -> None:
    """A catalog of fetched images that all have a vector."""
    keys = {f"item{n}": hashlib.sha256(str(n).encode()).hexdigest() for n in range(rows)}
    by_shard: list[list[str]] = [[] for _ in range(shards)]
    for item in keys:
        by_shard[shard_index(item, shards)].append(item)
    ledger = ledger_table(store, "shop")
    files: list[DataFile] = []
    for index, items in enumerate(by_shard):
        fetched = [
            {"id": item, "image": 0, "url": f"https://images.example/{item}", "status": OK}
            | {"sha256": keys[item], "width": 640, "height": 640, "fetched_at": utc_now()}
            for item in items
        ]
        written = ledger.write_rows(ledger_frame(fetched)).in_shard(Shard(index, shards))
        files.append(written)
    ledger.commit(lambda _: PendingCommit(files, {"items": 1}, PROPERTIES))
    vectors = VectorTable(store, "shop", fingerprint(_ENCODER))
    random = np.random.default_rng(0)
    images = list(keys.values())
    for start in range(0, rows, _ROWS_PER_APPEND):
        part = images[start : start + _ROWS_PER_APPEND]
        unit = random.standard_normal((len(part), dim)).astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        vectors.append(VectorRows(part, unit, np.ones(len(part), np.float32)))
    stage = EmbeddingStage(store, "shop", _ENCODER)
    for index in range(shards):
        stage.run(Shard(index, shards))


def _measure(rows: int, rows_per_shard: int, dim: int) -> None:
    shards = max(1, rows // rows_per_shard)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        _fill(store, rows, shards, dim)
        files = CountingFiles(store.files)
        counted = Store(files)
        shard = Shard(shards // 2, shards)
        started = time.perf_counter()
        report = EmbeddingStage(counted, "shop", _ENCODER).run(shard)
        (check,) = embeddings_invariants(counted, "shop", [shard]).values()
        seconds = time.perf_counter() - started
    if report.changed or report.embedded or not check.passed:
        raise AssertionError("the run was to find nothing to do")
    parts = ", ".join(f"{name} {count:,}" for name, count in sorted(files.rows.items()))
    print(
        f"{rows:>9,} rows, {shards:>5} shards: rows {sum(files.rows.values()):>9,} B ({parts}), "
        f"commits {sum(files.commits.values()):>9,} B, {seconds:.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[8_000, 32_000, 128_000])
    parser.add_argument("--rows-per-shard", type=int, default=500)
    parser.add_argument("--dim", type=int, default=128)
    arguments = parser.parse_args()
    for rows in arguments.rows:
        _measure(rows, arguments.rows_per_shard, arguments.dim)


if __name__ == "__main__":
    main()
