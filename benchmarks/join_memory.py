"""Peak memory of match tables and similarity graphs, and what of it follows the catalog.

    python -m benchmarks.join_memory [--rows 100000 200000 400000 800000] [--dim 128]

`left` is a match table of many items and 2,000 of another catalog, `right` the same with the sides
exchanged, `graph` the similarity graph, which is cut after its first block of left rows has met its
first block of right rows, since all of it takes hours. The vectors
are random. Each step is a process of its own. The peak is that
of its resident memory, with mapped files, above what it had before the step; `keys` is what the
ids and hashes of all rows take of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from benchmarks.catalog_memory import fill_catalog, in_process
from imgsim_assets.encoders import vectors
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity import items, vector_blocks
from imgsim_assets.similarity.cosine import Floats
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets.storage.store import Store

_STEPS = ("left", "right", "graph")
_FEW = 2000


class _CutError(Exception):
    """The rest of a graph is not computed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = [100_000, 200_000, 400_000, 800_000]
    parser.add_argument("--rows", type=int, nargs="+", default=counts)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--neighbors", type=int, default=10)
    parser.add_argument("--steps", nargs="+", choices=_STEPS, default=list(_STEPS))
    parser.add_argument("--work", type=Path, help="folder of the stores; default: a temporary one")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            in_process(processes, _fill, Path(folder), rows, options.dim, options.steps)
            block = 4 * options.dim * min(vector_blocks.MAX_BLOCK_ROWS, rows)
            size = 4 * options.dim * rows
            for step in options.steps:
                peak, keys = in_process(processes, _peak_of, Path(folder), step, options.neighbors)
                print(
                    f"{rows:>9,} x {options.dim}, {size / 2**20:.0f} MiB of vectors, "
                    f"{block / 2**20:.0f} MiB in a block: {step} {peak / 2**20:.0f} MiB, "
                    f"{keys / 2**20:.0f} MiB of them keys",
                    flush=True,
                )


def _fill(folder: Path, rows: int, dim: int, steps: list[str]) -> None:
    store = Store.open(folder)
    # Sorting files takes longer than the joins.
    with patch.object(vectors, "compaction_is_due", _never):
        _fill_catalogs(store, rows, dim, steps)


def _never(*_: object) -> bool:
    return False


def _fill_catalogs(store: Store, rows: int, dim: int, steps: list[str]) -> None:
    fill_catalog(store, "many", rows, dim)
    fill_catalog(store, "few", _FEW, dim, seed=1)
    IndexStage(store, "few").run()
    if steps != ["left"]:
        IndexStage(store, "many").run()


def _peak_of(folder: Path, step: str, neighbors: int) -> tuple[int, int]:
    import faiss  # noqa: F401 - its own memory is not that of the step

    store = Store.open(folder)
    before = _memory("VmRSS")
    settings = MatchSettings(mode="top_k", k=neighbors, threshold=-1)
    if step == "graph":
        with patch.object(VectorBlocks, "blocks", _first_block), suppress(_CutError):
            GraphStage(store, "many", GraphSettings(k=neighbors)).run()
    elif step == "left":
        MatchStage(store, "table", settings, left="many", right="few").run()
    else:
        MatchStage(store, "table", settings, left="few", right="many").run()
    peak = _memory("VmHWM") - before
    return peak, int(items.from_embeddings(store, "many")[1].keys.estimated_size())


def _first_block(rows: VectorBlocks) -> Iterator[tuple[int, Floats]]:
    yield 0, rows.read(0, rows.block_rows)
    raise _CutError


def _memory(name: str) -> int:
    """A value of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    main()
