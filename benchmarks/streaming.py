"""Pipelined runs: one catalog refreshed through Dagster, with and without `pipelined`.

    python -m benchmarks.streaming --images caltech101.tar --weights mobilenet_v2_imagenet.pth \
        --work /tmp/streaming --latency 0.3

A server that delays every response serves the images. Each round refreshes an empty catalog twice,
each time in a process of its own: once with one step for the download and one for the embedding,
once with both in one step. Seconds are those of the steps, the import of torch included, and of the
gap between them. Peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.embedding import members
from benchmarks.slow_serving import slow_server
from imgsim_assets_tests.support.projects import Project

MODES = {"two steps": False, "pipelined": True}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="tar of CLASS/NAME.jpg")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2 state dict")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds before each response")
    parser.add_argument("--connections", type=int, default=32, help="max_per_host")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_refresh(Project(args.measure))))
        return
    shutil.rmtree(args.work, ignore_errors=True)
    served = args.work / "served"
    served.mkdir(parents=True)
    for number, (_, data) in enumerate(islice(members(args.images), args.count)):
        (served / f"{number}.jpg").write_bytes(data)
    measured: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with slow_server(served, args.latency) as address:
        for number in range(args.rounds):
            for mode, is_pipelined in MODES.items():
                project = _project(args, number, address, is_pipelined)
                command = [sys.executable, "-m", "benchmarks.streaming", *sys.argv[1:]]
                command += ["--measure", str(project.root)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                measured[mode].append(json.loads(done.stdout.splitlines()[-1]))
                print(mode, measured[mode][-1], file=sys.stderr, flush=True)
                shutil.rmtree(project.root)
    _print(measured)


def _print(measured: dict[str, list[dict[str, float]]]) -> None:
    print("| | seconds | images/s | embedded while fetching | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    for mode, runs in measured.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        embedded_early = statistics.median(run["embedded early"] for run in runs)
        peak = max(run["peak MiB"] for run in runs)
        rate = runs[0]["images"] / seconds
        print(f"| {mode} | {seconds:.1f} | {rate:.0f} | {embedded_early:.0f} | {peak:.0f} |")
    pairs = zip(measured["two steps"], measured["pipelined"], strict=True)
    gain = statistics.median(plain["seconds"] / pipelined["seconds"] for plain, pipelined in pairs)
    print(f"pipelined / two steps: {gain:.2f} times as fast, the median of the rounds")


def _project(args: argparse.Namespace, number: int, address: str, is_pipelined: bool) -> Project:
    project = Project.make(args.work / f"{number}-{is_pipelined}")
    urls = [f"http://{address}/{image}.jpg" for image in range(args.count)]
    project.write("things.txt", "\n".join(urls))
    attributes: dict[str, Any] = {
        "name": "things",
        "source": {"path": "things.txt"},
        "shards": 2,
        "pipelined": is_pipelined,
        "encoder": {"name": "mobilenet_v2", "weights": str(args.weights.absolute())},
        "download": {"allowed_hosts": [address], "max_per_host": args.connections},
    }
    project.declare("things", "ImageCatalogComponent", attributes)
    return project


def _refresh(project: Project) -> dict[str, float]:
    """Measure from the first request to the last committed vector."""
    job = project.definitions().resolve_job_def("things_refresh")
    with project.instance() as instance:
        result = job.execute_in_process(
            instance=instance,
            # The index is left out: it holds all vectors in memory.
            asset_selection=[
                dg.AssetKey(["things", asset]) for asset in ("items", "images", "embeddings")
            ],
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )
        steps = [
            step
            for step in instance.get_run_step_stats(result.run_id)
            if step.step_key.endswith(("__images", "__embeddings", "__images_and_embeddings"))
        ]
        metadata = [
            event.asset_materialization.metadata
            for event in instance.fetch_materializations(
                dg.AssetKey(["things", "embeddings"]), limit=100
            ).records
            if event.asset_materialization is not None
        ]
    started = min(step.start_time for step in steps if step.start_time is not None)
    ended = max(step.end_time for step in steps if step.end_time is not None)
    return {
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": ended - started,
        "images": sum(int(_number(entry, "embedded")) for entry in metadata),
        "embedded early": sum(_number(entry, "embedded_while_fetching") for entry in metadata),
    }


def _number(metadata: Any, name: str) -> float:
    return float(metadata[name].value) if name in metadata else 0.0


if __name__ == "__main__":
    main()
