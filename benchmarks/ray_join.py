"""A similarity graph on a Ray cluster of nodes of one core, against one process with threads.

python -m benchmarks.ray_join [--rows 150000] [--dim 576] [--k 10] [--nodes 2] [--rounds 2]

The nodes are processes of this machine. Both ways alternate, each as a whole step: read the index,
join, write and commit. They must give the same rows. On a busy machine the processor time tells
more than the duration.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.blocks import families
from imgsim_assets.compute.settings import RAY_ADDRESS, ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.similarity.threads import use_threads
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.ray_cluster import running
from imgsim_assets_tests.support.vector_catalog import write_catalog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(options.nodes) as cluster:
        os.environ[RAY_ADDRESS] = cluster.address
        store = Store.open(Path(folder) / "store")
        write_catalog(store, "shop", families(options.rows, options.dim, 1))
        taken: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
        for number in range(options.rounds):
            for engine, rounds in taken.items():
                before = time.process_time() + cluster.cpu_seconds()
                seconds = _seconds(store, engine, number, options)
                cpu = time.process_time() + cluster.cpu_seconds() - before
                rounds.append((seconds, cpu))
                print(f"{engine}: {seconds:.1f} s, processor {cpu:.1f} s", flush=True)
        local, ray = (
            [median(column) for column in zip(*rounds, strict=True)] for rounds in taken.values()
        )
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        print(
            f"{options.rows:,} x {options.dim}, k={options.k}: {options.nodes} threads "
            f"{local[0]:.1f} s, {options.nodes} nodes {ray[0]:.1f} s, {ray[0] / local[0]:.2f} of "
            f"it, {ray[1] / local[1]:.2f} of its processor time; load {load}"
        )


def _seconds(store: Store, engine: str, number: int, options: argparse.Namespace) -> float:
    settings = GraphSettings(k=options.k)
    stage = GraphStage(store, "shop", settings, variant=f"{engine}{number}")
    compute = ComputeSettings.model_validate({"engine": engine})
    started = time.monotonic()
    with use_threads(options.nodes), use_compute(compute, print):
        stage.run()
    seconds = time.monotonic() - started
    first = GraphStage(store, "shop", settings, variant="local0").table
    if not stage.table.read(stage.table.at(1)).equals(first.read(first.at(1))):
        raise SystemExit(f"{engine}: other rows than those of one process")
    return seconds


if __name__ == "__main__":
    main()
