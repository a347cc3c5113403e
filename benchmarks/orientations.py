"""Turned and mirrored copies: recall, false matches and cost with and without orientations.

A third of the photographs (by the hash of their name) are strangers. The left catalog has the
strangers, and a recompressed copy of each of some others, in one of eight orientations; the right
catalog has the others. A copy is found if its best match is its original. A stranger with a match
has a false one, also where both show the same product.

    python -m benchmarks.orientations --images photographs/ --work /tmp/orientations \
        --encoder mobilenet_v2 --weights mobilenet_v2.pth
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.images.decode import decode
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.storage.store import Store

SUFFIXES = {".jpg", ".jpeg", ".png"}
JPEG_QUALITY = 70
EVIDENCE = {"compute": True, "require": "aligned"}
VARIANTS: dict[str, dict[str, Any]] = {
    "upright": {"threshold": "auto"},
    "orientations": {"threshold": "auto", "orientations": True},
    "upright_aligned": {"evidence": EVIDENCE},
    "orientations_aligned": {"evidence": EVIDENCE, "orientations": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--encoder", default="hog_color")
    parser.add_argument("--weights", help="weights file of the encoder")
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--evidence", action="store_true", help="also with aligned images")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied first")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    by_hash = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    strangers, others = by_hash[: len(files) // 3], by_hash[len(files) // 3 :]
    _link(options.work / "left", "stranger", strangers)
    _link(options.work / "right", "original", others)
    _write_copies(options.work / "left", others[: options.copies])
    report = {"images": len(files), "strangers": len(strangers), "copies": options.copies}
    print(json.dumps(report | _run(options, len(strangers)), indent=2))


def _link(folder: Path, prefix: str, files: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, folder / f"{prefix}_{number}{file.suffix.lower()}")


def _write_copies(folder: Path, originals: Sequence[Path]) -> None:
    for number, file in enumerate(originals):
        orientation = ORIENTATIONS[number % len(ORIENTATIONS)]
        copy = orientation.apply(decode(file.read_bytes()))
        copy.save(folder / f"copy_{number}.jpg", "JPEG", quality=JPEG_QUALITY)


def _run(options: argparse.Namespace, strangers: int) -> dict[str, Any]:
    store = Store.open(options.work / "store")
    pipelines = [
        CatalogPipeline(
            store,
            CatalogSettings.model_validate(
                {
                    "name": name,
                    "source": {"path": str(options.work / name)},
                    "encoder": {"name": options.encoder, "weights": options.weights},
                }
            ),
        )
        for name in ("left", "right")
    ]
    started = time.monotonic()
    fetch_and_embed(pipelines)
    for pipeline in pipelines:
        pipeline.index()
    report: dict[str, Any] = {"embedding_seconds": round(time.monotonic() - started, 1)}
    for variant, settings in VARIANTS.items():
        if "evidence" in settings and not options.evidence:
            continue
        report[variant] = _match(options, store, variant, settings, strangers)
    report["turned_bytes"] = sum(
        file.bytes
        for name in store.table_names()
        if "/vectors/" in name and "." in name
        for commit in [store.table(name, key="sha256").latest()]
        if commit is not None
        for file in commit.files
    )
    return report


def _match(
    options: argparse.Namespace,
    store: Store,
    variant: str,
    settings: dict[str, Any],
    strangers: int,
) -> dict[str, Any]:
    declared = MatchMatrixSettings.model_validate(
        {"name": variant, "left": "left", "right": "right", **settings}
    )
    pipeline = MatchPipeline(store, declared)
    started = time.monotonic()
    report = pipeline.run()
    seconds = time.monotonic() - started
    rows = pipeline.rows(report).with_columns(
        number=pl.col("left_id").str.extract(r"_(\d+)").cast(pl.Int64),
        is_copy=pl.col("left_id").str.contains("copy_"),
        is_original=pl.col("left_id").str.extract(r"_(\d+)")
        == pl.col("right_id").str.extract(r"_(\d+)"),
    )
    found = rows.filter("is_copy", "is_original")
    is_upright = pl.col("number") % len(ORIENTATIONS) == 0
    turned = options.copies - -(-options.copies // len(ORIENTATIONS))
    return {
        "threshold": round(report.threshold, 4),
        "recall_upright": round(found.filter(is_upright).height / (options.copies - turned), 3),
        "recall_turned": round(found.filter(~is_upright).height / turned, 3),
        "false": round(rows.filter(~pl.col("is_copy")).height / strangers, 4),
        "encoded_turned": report.turned,
        "seconds": round(seconds, 1),
        "seconds_without_a_change": round(_rerun(pipeline), 2),
    }


def _rerun(pipeline: MatchPipeline) -> float:
    started = time.monotonic()
    pipeline.run()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
