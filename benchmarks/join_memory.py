"""Peak memory of indexes, match tables, graphs, groups and thresholds, by the size of the catalog.

    python -m benchmarks.join_memory [--rows 100000 200000 400000 800000] [--dim 128]
        [--budget 512] [--steps build update left right graph approximate groups threshold]

`build` and `update` are the index, which an update gives other ids of 1 % of the items. `left` is a
match table of many items and 2,000 of another catalog, `right` the same with the sides exchanged.
`graph` is the similarity graph, cut after its first block of left rows has met its first block of
right rows, since all of it takes hours. `approximate` is the graph by inverted lists: all of it, or
with `--cut` until the lists of the first block of left ids are stored. `groups` are approximate
duplicate groups, and `threshold` an automatic threshold, of which only the first block of images is
searched. The vectors are random. Each step is a process of its own. The peak is that of its
resident memory, with mapped files and with what it has before the step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.catalog_memory import NAME as MANY
from benchmarks.catalog_memory import (
    UPDATE,
    Peak,
    change_ids,
    fill_catalog,
    fill_with_ledger,
    find_groups,
    in_process,
    measure_threshold,
    measured,
)
from imgsim_assets.compute.memory import DEFAULT_BUDGET, use_memory_budget
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity import updated_lists, vector_blocks
from imgsim_assets.similarity.cosine import Floats
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.neighbor_lists import map_list_blocks
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets.storage.store import Store

_STEPS = ("build", "left", "right", "graph", "approximate", "groups", "threshold", "update")
_WHOLE, _CUT = "approximate", "a part of approximate"
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
    parser.add_argument("--budget", type=int, default=DEFAULT_BUDGET >> 20, help="MiB")
    parser.add_argument("--cut", action="store_true", help="compute a part of `approximate`")
    parser.add_argument("--work", type=Path, help="folder of the stores; default: a temporary one")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            in_process(processes, _fill, Path(folder), rows, options.dim)
            block = 4 * options.dim * min(vector_blocks.MAX_BLOCK_ROWS, rows)
            size = 4 * options.dim * rows
            if "build" not in options.steps:
                in_process(processes, _build, Path(folder))
            steps = [_CUT if options.cut and step == _WHOLE else step for step in options.steps]
            for step in steps:
                if step == UPDATE:
                    in_process(processes, change_ids, Path(folder))
                peak = in_process(
                    processes, _peak_of, Path(folder), step, options.neighbors, options.budget << 20
                )
                print(
                    f"{rows:>9,} x {options.dim}, {size / 2**20:.0f} MiB of vectors, "
                    f"{block / 2**20:.0f} MiB in a block: {step} {peak.peak / 2**20:.0f} MiB, "
                    f"{peak.start / 2**20:.0f} of them at the start, {peak.seconds:.1f} s",
                    flush=True,
                )


def _fill(folder: Path, rows: int, dim: int) -> None:
    store = Store.open(folder)
    fill_with_ledger(store, MANY, rows, dim)
    fill_catalog(store, "few", _FEW, dim, seed=1)
    IndexStage(store, "few").run()


def _build(folder: Path) -> None:
    IndexStage(Store.open(folder), MANY).run()


def _peak_of(folder: Path, step: str, neighbors: int, budget: int) -> Peak:
    import faiss  # noqa: F401 - the memory of the libraries is that of the start
    import scipy.sparse  # noqa: F401

    store = Store.open(folder)
    with use_memory_budget(budget):
        return measured(lambda: _run(store, step, neighbors))


def _run(store: Store, step: str, neighbors: int) -> None:
    settings = MatchSettings(mode="top_k", k=neighbors, threshold=-1)
    if step in ("build", UPDATE):
        IndexStage(store, MANY).run()
    elif step == _CUT:
        with patch.object(updated_lists, "map_list_blocks", _first_lists), suppress(_CutError):
            GraphStage(store, MANY, GraphSettings(k=neighbors, method="approximate")).run()
    elif step == "left":
        MatchStage(store, "left", settings, left=MANY, right="few").run()
    elif step == "right":
        MatchStage(store, "right", settings, left="few", right=MANY).run()
    elif step == "graph":
        with patch.object(VectorBlocks, "blocks", _first_block), suppress(_CutError):
            GraphStage(store, MANY, GraphSettings(k=neighbors)).run()
    elif step == _WHOLE:
        GraphStage(store, MANY, GraphSettings(k=neighbors, method="approximate")).run()
    elif step == "threshold":
        measure_threshold(store)
    else:
        find_groups(store)


def _first_lists(*arguments: Any) -> Iterator[Any]:
    yield next(map_list_blocks(*arguments))
    raise _CutError


def _first_block(rows: VectorBlocks) -> Iterator[tuple[int, Floats]]:
    yield 0, rows.read(0, rows.block_rows)
    raise _CutError


if __name__ == "__main__":
    main()
