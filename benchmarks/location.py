"""The time to load a code location, compared with importing Dagster alone.

    python -m benchmarks.location --catalogs 50 --shards 64 --work /tmp/location

Two locations are loaded, each in fresh processes and alternating with `import dagster`: that of
this project, and one with the given number of catalogs, matched in pairs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from imgsim_assets_tests.support.projects import Project

ROUNDS = 11
_LOAD = "from {0}.definitions import defs; defs().get_repository_def().get_all_jobs()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catalogs", type=int, default=50)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.work, ignore_errors=True)
    large = _project(chosen.work, chosen.catalogs, chosen.shards)
    commands = {
        "import dagster": ("import dagster", Path.cwd()),
        "this project": (_LOAD.format("imgsim_assets"), Path.cwd()),
        f"{chosen.catalogs} catalogs of {chosen.shards} shards": (
            _LOAD.format(large.package),
            large.root,
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, (code, folder) in commands.items():
            seconds[name].append(_timed(code, folder))
    base = statistics.median(seconds["import dagster"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name}: {median:.2f} s, {median / base:.2f}x")


def _project(root: Path, catalogs: int, shards: int) -> Project:
    project = Project.make(root, package="large")
    project.write("list.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    for number in range(catalogs):
        attributes = {
            "name": f"catalog_{number}",
            "source": "list.csv",
            "shards": shards,
            "schedule": "0 3 * * *",
        }
        project.declare(f"catalog_{number}", "ImageCatalogComponent", attributes)
    for number in range(0, catalogs - 1, 2):
        left, right = f"catalog_{number}", f"catalog_{number + 1}"
        pair = {"name": f"{left}__{right}", "left": left, "right": right}
        project.declare(pair["name"], "MatchMatrixComponent", pair)
    return project


def _timed(code: str, folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
