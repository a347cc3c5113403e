"""Peak memory of an index, a measured threshold and duplicate groups, by the size of the catalog.

python -m benchmarks.catalog_memory [--rows 100000 200000 400000 800000] [--dim 128]
    [--steps build check threshold groups update]

Each step is a process of its own. Its peak is the greatest resident memory, with mapped files and
with what the process takes before the step: Python and its libraries. The vectors are random,
with falling variances as those of encoders; one of a hundred is nearly that of another image.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import polars as pl

from imgsim_assets.download.ledger.table import empty_ledger, ledger_table
from imgsim_assets.encoders import vectors as vector_table
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import IndexStage, open_index
from imgsim_assets.pipeline.invariants import index_invariants
from imgsim_assets.similarity.calibration import CatalogItems, calibrate
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.items import from_index
from imgsim_assets.similarity.nearest_vectors import SCHEMA as NEAREST_SCHEMA
from imgsim_assets.similarity.nearest_vectors import NearestVectors
from imgsim_assets.similarity.settings import GroupSettings
from imgsim_assets.storage.commit import DataFile, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

T = TypeVar("T")

_BYTES_PER_APPEND = 10 * 2**20
NAME, _ENCODER = "shop", "f" * 16
# Of the images of the catalog, one in so many is a near copy of the one before.
_COPIES = 100
UPDATE = "update"
_ROWS_PER_SHARD = 10_000
_THRESHOLD = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 400_000, 800_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", nargs="+", default=list(_STEPS), choices=list(_STEPS))
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            in_process(processes, _fill, Path(folder), rows, options.dim)
            if "build" not in options.steps:
                in_process(processes, _measured, Path(folder), "build")
            size = 4 * rows * options.dim
            for step in options.steps:
                if step == UPDATE:
                    in_process(processes, change_ids, Path(folder))
                start, peak, seconds = in_process(processes, _measured, Path(folder), step)
                print(
                    f"{rows:>9,} x {options.dim}, {size / 2**20:.0f} MiB of vectors: {step} "
                    f"{peak / 2**20:.0f} MiB, {start / 2**20:.0f} of them at the start, "
                    f"{seconds:.1f} s",
                    flush=True,
                )


def in_process(processes: SpawnContext, work: Callable[..., T], *arguments: Any) -> T:
    """The result of a function in a process of its own."""
    with processes.Pool(1) as pool:
        return pool.apply(work, arguments)


def fill_catalog(store: Store, name: str, rows: int, dim: int, *, seed: int = 0) -> pl.DataFrame:
    """Store embeddings of so many items, and return their id, sha256, image and status."""
    vectors = VectorTable(store, name, _ENCODER)
    random = np.random.default_rng(seed)
    scale = (1 / np.sqrt(1 + np.arange(dim))).astype(np.float32)
    keys = [hashlib.sha256(f"{seed} {n}".encode()).hexdigest() for n in range(rows)]
    per_append = _BYTES_PER_APPEND // (4 * dim)
    for start in range(0, rows, per_append):
        part = keys[start : start + per_append]
        unit = scale * random.standard_normal((len(part), dim), dtype=np.float32)
        copies = unit[: len(part) - 1 : _COPIES]
        unit[1::_COPIES] = copies * (1 + 1e-3 * random.standard_normal(dim))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        vectors.append(VectorRows(part, unit, np.ones(len(part), np.float32)))
    images = pl.DataFrame({"id": [f"item{n:09d}" for n in range(rows)], "sha256": keys})
    images = images.with_columns(pl.lit(0, pl.Int32).alias("image"), pl.lit("ok").alias("status"))
    embedded = images.with_columns(
        pl.lit(False).alias("truncated"), pl.lit(None, pl.String).alias("detail")
    ).select(list(SCHEMA))
    table = embeddings_table(store, name)
    properties = {FINGERPRINT: _ENCODER, "encoder": {"name": "hog_color"}}
    files = _in_shards(table, embedded)
    table.commit(lambda _: PendingCommit(files, {"images": 1}, properties))
    return images


def _in_shards(table: Table, rows: pl.DataFrame) -> list[DataFile]:
    """Files of rows from everywhere, as shards are."""
    count = -(-rows.height // _ROWS_PER_SHARD)
    parts = (rows.gather_every(count, number) for number in range(count))
    return [table.write_rows(part).with_metadata(**{FINGERPRINT: _ENCODER}) for part in parts]


def _fill(folder: Path, rows: int, dim: int) -> None:
    fill_with_ledger(Store.open(folder), NAME, rows, dim)


def fill_with_ledger(store: Store, name: str, rows: int, dim: int) -> None:
    """Store embeddings of so many items, and the ledger of their images."""
    # Sorting files takes longer than the steps.
    with patch.object(vector_table, "compaction_is_due", _never):
        images = fill_catalog(store, name, rows, dim)
    number = pl.int_range(pl.len())
    fetched = images.with_columns(
        pl.concat_str(pl.lit("https://images.example/"), "id").alias("url"),
        *(((number * 37) % 1000 + 200).cast(pl.Int32).alias(side) for side in ("width", "height")),
        ((number * 53) % 100_000).alias("bytes"),
    )
    ledger = ledger_table(store, name)
    written = ledger.write_rows(pl.concat([empty_ledger(), fetched], how="diagonal_relaxed"))
    ledger.commit(lambda _: PendingCommit([written], {}, {}))


def _never(*_: object) -> bool:
    return False


class Peak(NamedTuple):
    """Bytes of resident memory before a step and at most, and the seconds of the step."""

    start: int
    peak: int
    seconds: float


def _measured(folder: Path, step: str) -> Peak:
    import faiss  # noqa: F401 - the memory of the libraries is that of the start
    import scipy.sparse  # noqa: F401

    store = Store.open(folder)
    return measured(lambda: _STEPS[step](store))


def measured(step: Callable[[], None]) -> Peak:
    """The memory and the time of a step of this process."""
    start, began = _status("VmRSS"), time.perf_counter()
    step()
    return Peak(start, _status("VmHWM"), time.perf_counter() - began)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def _build(store: Store) -> None:
    IndexStage(store, NAME).run()


def change_ids(folder: Path) -> None:
    """A hundredth of the items get other ids."""
    store = Store.open(folder)
    table = embeddings_table(store, NAME)
    latest = table.latest()
    if latest is None:
        raise AssertionError("the catalog was filled")
    rows = table.read(latest)
    kept = rows.gather_every(100, offset=0).select(
        (pl.col("id") + pl.lit("-new")).alias("id"), pl.exclude("id")
    )
    changed = pl.concat([rows.filter(pl.int_range(pl.len()) % 100 != 0), kept]).sort("id")
    files = _in_shards(table, changed)
    properties = latest.properties
    table.commit(lambda _: PendingCommit(files, {"images": 2}, properties))


def _check(store: Store) -> None:
    _, index = open_index(store, NAME)
    results = index_invariants(store, NAME, index)
    if not all(result.passed for result in results.values()):
        raise AssertionError(results)


def measure_threshold(store: Store) -> None:
    """The search of the first block is real; of the others, its result is made up."""
    search = NearestVectors.of
    blocks: list[int] = []

    def of(nearest: NearestVectors, numbers: Indices, k: int) -> pl.DataFrame:
        blocks.append(len(numbers))
        if len(blocks) == 1:
            return search(nearest, numbers, k)
        others = (numbers[:, None] + 1 + np.arange(k)) % len(nearest.vectors)
        columns = [
            np.repeat(numbers, k),
            others.ravel(),
            np.random.default_rng(0).random(others.size),
        ]
        return pl.DataFrame(columns, schema=NEAREST_SCHEMA)

    with patch.object(NearestVectors, "of", of):
        calibrate(store, CatalogItems(NAME, *from_index(store, NAME)), 0.01)


def find_groups(store: Store) -> None:
    """By inverted lists, since the time of exact groups grows with the square."""
    settings = GroupSettings(threshold=_THRESHOLD, method="approximate")
    GroupStage(store, NAME, settings).run()


_STEPS: Mapping[str, Callable[[Store], None]] = {
    "build": _build,
    "check": _check,
    "threshold": measure_threshold,
    "groups": find_groups,
    UPDATE: _build,
}


if __name__ == "__main__":
    main()
