"""Peak memory of building an index, and of reading the inputs of graphs and match tables.

python -m benchmarks.index_memory [--rows 100000 200000 400000] [--dim 128]

Each step is a process of its own. The peak is that of its resident memory, without mapped files,
above what it had before the step. The vectors are random.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vectors import VectorRows, VectorTable
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity.items import from_embeddings, from_index
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

T = TypeVar("T")

_ROWS_PER_APPEND = 5000
_SAMPLE_S = 0.002
_STEPS = ("build", "from_index", "from_embeddings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 400_000])
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            in_process(processes, _fill, Path(folder), rows, options.dim)
            size = 4 * rows * options.dim
            for step in _STEPS:
                peak = in_process(processes, _peak_of, Path(folder), step)
                print(
                    f"{rows:>9,} x {options.dim}, {size / 2**20:.0f} MiB of vectors: {step} "
                    f"{peak / 2**20:.0f} MiB, {peak / size:.2f} of them",
                    flush=True,
                )


def in_process(processes: SpawnContext, work: Callable[..., T], *arguments: Any) -> T:
    with processes.Pool(1) as pool:
        return pool.apply(work, arguments)


def _fill(folder: Path, rows: int, dim: int) -> None:
    fill_catalog(Store.open(folder), "shop", rows, dim)


def fill_catalog(store: Store, name: str, rows: int, dim: int, *, seed: int = 0) -> None:
    """Store embeddings of so many items, with random vectors."""
    vectors = VectorTable(store, name, "f" * 16)
    random = np.random.default_rng(seed)
    keys = [hashlib.sha256(f"{seed} {n}".encode()).hexdigest() for n in range(rows)]
    for start in range(0, rows, _ROWS_PER_APPEND):
        part = keys[start : start + _ROWS_PER_APPEND]
        unit = random.standard_normal((len(part), dim), dtype=np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        vectors.append(VectorRows(part, unit, np.ones(len(part), np.float32)))
    table = embeddings_table(store, name)
    columns = {"id": [f"item{n}" for n in range(rows)], "sha256": keys}
    frame = pl.DataFrame(columns).with_columns(
        pl.lit(0, pl.Int32).alias("image"),
        pl.lit("ok").alias("status"),
        pl.lit(False).alias("truncated"),
    )
    frame = frame.with_columns(pl.lit(None, pl.String).alias("detail")).select(list(SCHEMA))
    file = table.write_rows(frame.sort("id")).with_metadata(**{FINGERPRINT: "f" * 16})
    properties = {FINGERPRINT: "f" * 16, "encoder": {"name": "hog_color"}}
    table.commit(lambda _: PendingCommit([file], {"images": 1}, properties))


def _peak_of(folder: Path, step: str) -> int:
    import faiss  # noqa: F401 - its own memory is not that of the step

    store = Store.open(folder)
    before = _own_memory()
    peak, done = before, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_S):
            peak = max(peak, _own_memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    if step == "build":
        IndexStage(store, "shop").run()
    elif step == "from_index":
        from_index(store, "shop")
    else:
        from_embeddings(store, "shop")
    peak = max(peak, _own_memory())
    done.set()
    sampler.join()
    return peak - before


def _own_memory() -> int:
    """Bytes of resident memory but those of mapped files, which the system takes back at will."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


if __name__ == "__main__":
    main()
