"""The whole pipeline on real images: two catalogs over HTTP, matched and with graphs.

Catalog A has every image of one archive; catalog B has perturbed copies of 500 of them and
1,000 images of another archive as distractors. Dagster fetches both over loopback, embeds them
by MobileNetV2, indexes and matches them; then 1 % of the rows of both change.

    python -m benchmarks.end_to_end --images clothing_1500.tar --distractors caltech101.tar \
        --weights mobilenet_v2_imagenet.pth --book-covers book_covers --work /tmp/end_to_end
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from PIL import Image

from benchmarks.serving import Server, serving
from imgsim_assets.components.local_run import LocalRun
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.decode import decode
from imgsim_assets.images.perturbations import perturb
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.projects import Project

PERTURBATIONS = ("recompress", "resize", "crop", "brighten", "banner")
COPIES = 500
DISTRACTORS = 1000
THRESHOLD = 0.845
CHANGED_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tar of catalog A")
    parser.add_argument("--distractors", type=Path, required=True, help="tar of other images")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2 state dict")
    parser.add_argument("--book-covers", type=Path, help="folder with 1.jpg to 6.jpg")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    parser.add_argument("--materialize", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.materialize:
        _materialize(options.work)
        return
    shutil.rmtree(options.work, ignore_errors=True)
    served = options.work / "served"
    truth = _make_images(options.images, options.distractors, served)
    with serving(served) as server:
        report = _run(options, server, truth)
    if options.book_covers:
        report["book_covers"] = _book_covers(options.book_covers, options.weights)
    print(json.dumps(report, indent=2))


def _run(options: argparse.Namespace, server: Server, truth: Mapping[str, str]) -> dict[str, Any]:
    project = _make_project(options, server)
    rows = _write_catalogs(project, server, options.work / "served")
    first = _measure(options, server)
    matches = _compare(project.store, truth)
    again = _measure(options, server)
    changed = _change_rows(project, rows, server, options.work / "served")
    after = _measure(options, server)
    return {
        "first run": first,
        "matches": matches,
        "second run, nothing changed": again,
        "third run, 1 % of rows changed": {"rows changed": changed, **after},
    }


# ---- images ---------------------------------------------------------------------------


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(".jpg"):
                yield member.name.replace("/", "_"), file.read()


def _make_images(images: Path, distractors: Path, served: Path) -> dict[str, str]:
    """Write a/, b/ and spare/; returns the copy in B of each copied item of A."""
    for folder in ("a", "b", "spare"):
        (served / folder).mkdir(parents=True)
    names = []
    for name, data in _members(images):
        (served / "a" / name).write_bytes(data)
        names.append(name)
    rng = random.Random(0)
    copied = rng.sample(names, COPIES)
    truth = {}
    for number, name in enumerate(copied):
        perturbation = PERTURBATIONS[number % len(PERTURBATIONS)]
        copy = perturb(decode((served / "a" / name).read_bytes()), perturbation, number)
        copy.save(served / "b" / f"{perturbation}-{name}", "JPEG", quality=92)
        truth[name] = f"{perturbation}-{name}"
    others = list(_members(distractors))
    rng.shuffle(others)
    for number, (name, data) in enumerate(others[: DISTRACTORS + 100]):
        folder = "b" if number < DISTRACTORS else "spare"
        (served / folder / f"other-{name}").write_bytes(data)
    return truth


# ---- the project ------------------------------------------------------------------------


def _make_project(options: argparse.Namespace, server: Server) -> Project:
    project = Project.make(options.work / "project")
    for name in ("a", "b"):
        attributes = {
            "name": name,
            "source": {"path": f"{name}.csv"},
            "shards": 4,
            "encoder": {"name": "mobilenet_v2", "weights": str(options.weights.absolute())},
            "download": {"allowed_hosts": [server.address], "max_per_host": 32},
            "graph": {"k": 10},
        }
        project.declare(name, "ImageCatalogComponent", attributes)
    pair = {"name": "a__b", "left": "a", "right": "b", "threshold": THRESHOLD, "mode": "best"}
    project.declare("a__b", "MatchMatrixComponent", pair)
    return project


def _write_catalogs(project: Project, server: Server, served: Path) -> dict[str, dict[str, str]]:
    rows = {
        name: {
            path.name: server.url(f"{name}/{path.name}")
            for path in sorted((served / name).iterdir())
        }
        for name in ("a", "b")
    }
    for name, urls in rows.items():
        _write(project, name, urls)
    return rows


def _write(project: Project, name: str, urls: Mapping[str, str]) -> None:
    with (project.root / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "url"])
        writer.writerows(urls.items())


def _change_rows(
    project: Project, rows: dict[str, dict[str, str]], server: Server, served: Path
) -> int:
    """Give 1 % of the items of both catalogs another image."""
    spare = iter(sorted(path.name for path in (served / "spare").iterdir()))
    changed = 0
    for name, urls in rows.items():
        for item in random.Random(1).sample(sorted(urls), round(len(urls) * CHANGED_SHARE)):
            urls[item] = server.url(f"spare/{next(spare)}")
            changed += 1
        _write(project, name, urls)
    return changed


# ---- measuring --------------------------------------------------------------------------


def _measure(options: argparse.Namespace, server: Server) -> dict[str, Any]:
    """Materialize everything in a separate process; its time, memory and GET requests."""
    gets = server.gets()
    arguments = [sys.executable, "-m", "benchmarks.end_to_end", *sys.argv[1:], "--materialize"]
    started = time.monotonic()
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall seconds": round(time.monotonic() - started, 1),
        "GETs": server.gets() - gets,
        **measured,
    }


def _materialize(work: Path) -> None:
    project = Project(work / "project")
    with project.instance() as instance:
        runs_before = {run.run_id for run in instance.get_runs()}
        if not LocalRun(project.definitions(), instance).run(everything=True).succeeded:
            sys.exit("a run failed")
        stages, embedded = _stages(instance, runs_before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak MiB": round(peak), "forward passes": embedded, "stages": stages}))


def _stages(
    instance: dg.DagsterInstance, earlier: set[str]
) -> tuple[dict[str, dict[str, float]], int]:
    """Seconds and images of every step of the new runs, and the number of embedded images."""
    stages: dict[str, dict[str, float]] = {}
    images: dict[str, int] = defaultdict(int)
    for run in instance.get_runs():
        if run.run_id in earlier:
            continue
        for entry in instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ):
            materialization = entry.asset_materialization
            if materialization is not None:
                metadata = {name: value.value for name, value in materialization.metadata.items()}
                count = metadata.get("requested", metadata.get("embedded"))
                if isinstance(count, int):
                    images[materialization.asset_key.to_user_string()] += count
        for step in instance.get_run_step_stats(run.run_id):
            if step.start_time is not None and step.end_time is not None:
                name = step.step_key.replace("__", "/", 1)
                stages[name] = {"seconds": round(step.end_time - step.start_time, 2)}
    for name, count in images.items():
        if count and name in stages:
            stages[name]["images"] = count
            stages[name]["images/s"] = round(count / stages[name]["seconds"], 1)
    embedded = sum(count for name, count in images.items() if name.endswith("/embeddings"))
    return dict(sorted(stages.items())), embedded


def _compare(store: Store, truth: Mapping[str, str]) -> dict[str, Any]:
    matches = read_table("matches/a__b", store=store).collect()
    best = dict(matches.select("left_id", "right_id").iter_rows())
    recovered = {left for left, right in truth.items() if best.get(left) == right}
    recall = {
        perturbation: round(
            float(
                np.mean(
                    [
                        left in recovered
                        for left, right in truth.items()
                        if right.startswith(perturbation)
                    ]
                )
            ),
            3,
        )
        for perturbation in PERTURBATIONS
    }
    false = matches.filter(
        pl.struct("left_id", "right_id").map_elements(
            lambda pair: truth.get(pair["left_id"]) != pair["right_id"], return_dtype=pl.Boolean
        )
    )
    return {
        "matches": matches.height,
        "found": len(recovered),
        "missed": len(truth) - len(recovered),
        "false": false.height,
        "false, most similar": [
            f"{row['similarity']:.3f} {row['left_id']} {row['right_id']}"
            for row in false.sort("similarity", descending=True).head(5).iter_rows(named=True)
        ],
        "recall": recall,
    }


# ---- book covers ------------------------------------------------------------------------


def _book_covers(folder: Path, weights: Path) -> dict[str, Any]:
    """Cosines of covers 1 to 6 with covers 3, 4 and 5, by both encoders."""
    encoders = {
        "mobilenet_v2": EncoderSettings(name="mobilenet_v2", weights=str(weights)),
        "hog_color": EncoderSettings(name="hog_color"),
    }
    tables = {}
    for name, settings in encoders.items():
        rows = _unit_vectors([Image.open(folder / f"{n}.jpg") for n in range(1, 7)], settings)
        tables[name] = (rows @ rows[[2, 3, 4]].T).round(3).tolist()
    return tables


def _unit_vectors(images: Sequence[Image.Image], settings: EncoderSettings) -> Any:
    encoder = load_encoder(settings)
    prepared = np.stack([encoder.prepare(image.convert("RGB")) for image in images])
    raw = encoder.encode(prepared).astype(np.float64)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
