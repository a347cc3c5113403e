"""Joins of feature vectors: the package beside other methods, and how its cost grows.

    python -m benchmarks.similarity join --images caltech101.tar clothing.tar \
        --weights mobilenet_v2_imagenet.pth --work /tmp/similarity

`join` compares methods on 13,501 x 21,221 rows, every method in turn, `--repeat` times.
`prefilters` times the prefilters that the package chooses from, `growth` joins and graphs of
larger catalogs, `ivf` searches of an inverted file beside a flat index. `--spec` limits `growth` to
joins or graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.features import Floats, bootstrapped, mobilenet_features, projected
from imgsim_assets.similarity import threshold_join, top_k
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_threshold
from imgsim_assets.similarity.projection import fit
from imgsim_assets.similarity.tiles import MEMORY_BUDGET, RowBlock, map_row_blocks

LEFT, RIGHT, THRESHOLD = 13_501, 21_221, 0.845
SPECS = ("all", "graph")
TILE = 1024
QUERIES = 2000
PROBES = (1, 2, 4, 8, 16, 32)
WIDTHS = (64, 128, 256, 384)
Found = tuple[Any, Any]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["join", "prefilters", "growth", "ivf", "memory"])
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="tars of JPEGs")
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2 state dict")
    parser.add_argument("--work", type=Path, required=True, help="where features are kept")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000])
    parser.add_argument("--spec", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    cache = options.work / "features.npy"
    features = mobilenet_features(options.images, options.weights, cache)
    jobs = {
        "join": _join,
        "prefilters": _prefilters,
        "growth": _growth,
        "ivf": _ivf,
        "memory": _memory,
    }
    report = jobs[options.job](features, options)
    print(json.dumps(report, indent=2))


def _inputs(features: Floats) -> tuple[Floats, Floats]:
    return bootstrapped(features, LEFT, 0.1, seed=1), bootstrapped(features, RIGHT, 0.1, seed=2)


# ---- the methods ------------------------------------------------------------------------


def package(left: Floats, right: Floats) -> Found | None:
    i, j, _ = threshold_join(left, right, THRESHOLD)
    return i, j


def ryanfwy(left: Floats, right: Floats) -> Found | None:
    """All cosines as his program computes them, then those above the threshold."""
    cosines = np.dot(left, right.T) / np.dot(
        np.linalg.norm(left, axis=1, keepdims=True), np.linalg.norm(right.T, axis=0, keepdims=True)
    )
    i, j = np.where(cosines >= THRESHOLD)
    return i, j


def faiss_range_search(left: Floats, right: Floats) -> Found | None:
    import faiss

    index = faiss.IndexFlatIP(right.shape[1])
    index.add(right)
    limits, _, labels = index.range_search(left, float(np.nextafter(THRESHOLD, 0)))
    counts = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
    rows = np.repeat(np.arange(len(left)), counts)
    return rows, labels


def float32_product(left: Floats, right: Floats) -> Found | None:
    """Only the float32 product, in tiles that fit the cache, without a result."""
    buffer = np.empty((TILE, 4 * TILE), dtype=np.float32)
    for row in range(0, len(left), TILE):
        for column in range(0, len(right), 4 * TILE):
            a, b = left[row : row + TILE], right[column : column + 4 * TILE]
            np.matmul(a, b.T, out=buffer.ravel()[: len(a) * len(b)].reshape(len(a), len(b)))
    return None


METHODS: Mapping[str, Callable[[Floats, Floats], Found | None]] = {
    "package": package,
    "ryanfwy": ryanfwy,
    "faiss range_search": faiss_range_search,
    "bare float32 product": float32_product,
}


def brute_force_pairs(left: Floats, right: Floats) -> set[tuple[int, int]]:
    """The pairs by a float64 product."""
    found: set[tuple[int, int]] = set()
    wide = right.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    for row in range(0, len(left), TILE):
        rows = left[row : row + TILE].astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        i, j = np.nonzero(rows @ wide.T >= THRESHOLD)
        found.update(zip((i + row).tolist(), j.tolist(), strict=True))
    return found


# ---- jobs -------------------------------------------------------------------------------


def _join(features: Floats, options: argparse.Namespace) -> dict[str, Any]:
    left, right = _inputs(features)
    true_pairs = brute_force_pairs(left, right)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    processor: dict[str, list[float]] = {name: [] for name in METHODS}
    differing: dict[str, int] = {}
    for _ in range(options.repeat):
        for name, method in METHODS.items():
            started, used = time.perf_counter(), time.process_time()
            found = method(left, right)
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
            if found is not None:
                found_pairs = set(zip(*(part.tolist() for part in found), strict=True))
                differing[name] = len(found_pairs ^ true_pairs)
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    used_by = {name: float(np.median(taken)) for name, taken in processor.items()}
    return {
        "pairs by definition": len(true_pairs),
        "prefilter": _name(choose_for_threshold(_pair(left, right), THRESHOLD)),
        "median seconds": {name: round(value, 2) for name, value in medians.items()},
        "times the package's": _ratios(medians),
        "median processor seconds": {name: round(value, 2) for name, value in used_by.items()},
        "times the package's processor seconds": _ratios(used_by),
        "pairs that differ from float64": differing,
        "all seconds": {name: [round(one, 2) for one in taken] for name, taken in seconds.items()},
    }


class Seconds(NamedTuple):
    """Wall time and processor time of a call."""

    wall: float
    processor: float

    def text(self) -> str:
        """Both times as text."""
        return f"{self.wall:.2f} s, {self.processor:.2f} s of processors"


def _timed(work: Callable[[], T]) -> tuple[Seconds, T]:
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - started, time.process_time() - used), result


def _ratios(taken: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value / taken["package"], 2) for name, value in taken.items()}


def _memory(features: Floats, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory beside the inputs, each method in a process of its own."""
    files = [options.work / f"{side}.npy" for side in ("left", "right")]
    if options.method:
        # Loaded, not computed, so that the peak before is that of the inputs.
        left, right = (np.load(file) for file in files)
        before = _peak()
        METHODS[options.method](left, right)
        return {"MiB over the inputs": round(_peak() - before)}
    for file, rows in zip(files, _inputs(features), strict=True):
        np.save(file, rows)
    peaks = {}
    for name in METHODS:
        arguments = [sys.executable, "-m", "benchmarks.similarity", *sys.argv[1:], "--method", name]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
        peaks[name] = json.loads(done.stdout)["MiB over the inputs"]
    return {"MiB over the inputs": peaks}


def _peak() -> float:
    """Peak memory so far in MiB. Not ru_maxrss, which a child process inherits."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _prefilters(features: Floats, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and candidates of each prefilter over the job of `join`, without scoring them."""
    left, right = _inputs(features)
    inputs = _pair(left, right)
    both = (inputs.left, inputs.right)
    sample = np.concatenate([one.sample(1024)[0] for one in both])
    widest = fit(sample, max(WIDTHS), 1 + max(one.unit.deviation for one in both))
    projections = [None, *(widest.leading(width) for width in WIDTHS)]
    found = {}
    for projection in projections:
        prefilter = Prefilter.of(projection, inputs)
        seconds, candidates = [], 0
        for _ in range(options.repeat):
            started = time.perf_counter()
            candidates = sum(map_row_blocks(inputs, prefilter, MEMORY_BUDGET, _count))
            seconds.append(time.perf_counter() - started)
        found[_name(prefilter)] = {
            "seconds": round(float(np.median(seconds)), 2),
            "error": round(prefilter.error, 5),
            "candidates": candidates,
        }
    return found


def _count(block: RowBlock) -> int:
    cutoffs = np.full(block.rows.stop - block.rows.start, THRESHOLD)
    return sum(tile.count_at_least(cutoffs) for tile in block.tiles)


def _pair(left: Floats, right: Floats) -> InputPair:
    return InputPair.of(JoinInput.of(left, "left"), JoinInput.of(right, "right"))


def _name(prefilter: Prefilter) -> str:
    if prefilter.projection is None:
        return "whole rows"
    return f"projection to {prefilter.projection.width - 1}"


def _growth(features: Floats, options: argparse.Namespace) -> dict[str, Any]:
    """Join at 0.9 and 10 neighbors of n x n rows of 576 numbers, for growing n."""
    narrow = projected(features, 576, seed=3)
    by_count = {}
    for count in options.rows:
        left = bootstrapped(narrow, count, 0.05, seed=4)
        right = bootstrapped(narrow, count, 0.05, seed=5)
        row: dict[str, Any] = {}
        before = _peak()
        if "all" in options.spec:
            taken, found = _timed(partial(threshold_join, left, right, 0.9))
            row |= {"join": taken.text(), "pairs": len(found[0])}
        if "graph" in options.spec:
            taken, _ = _timed(partial(top_k, right, right, 11))
            row |= {"graph": taken.text()}
        row["MiB over the inputs"] = round(_peak() - before)
        print(count, row, file=sys.stderr, flush=True)
        by_count[count] = row
    return by_count


def _ivf(features: Floats, options: argparse.Namespace) -> dict[str, Any]:
    """Searches for 10 neighbors of QUERIES items: inverted file beside flat index."""
    import faiss

    from imgsim_assets.index.ivf import list_count, trained_quantizer, training_count

    narrow = projected(features, 576, seed=3)
    found = {}
    for count in options.rows:
        rows = bootstrapped(narrow, count, 0.05, seed=5)
        queries = rows[np.linspace(0, count - 1, QUERIES).astype(np.int64)]
        dim, lists = rows.shape[1], list_count(count)
        flat: Any = faiss.IndexFlatIP(dim)
        flat.add(rows)
        started = time.perf_counter()
        quantizer = trained_quantizer(rows[: training_count(count)], lists)
        trained = time.perf_counter()
        ivf: Any = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        ivf.add(rows)
        added = time.perf_counter()
        exact, (_, positions) = _searched(flat, queries)
        report: dict[str, Any] = {
            "training seconds": round(trained - started, 1),
            "adding seconds": round(added - trained, 1),
            "flat search seconds": round(exact, 2),
        }
        for nprobe in PROBES:
            ivf.nprobe = nprobe
            taken, (_, own) = _searched(ivf, queries)
            hits = [len(np.intersect1d(a, b)) for a, b in zip(own, positions, strict=True)]
            report[f"{nprobe} nprobe"] = {
                "seconds": round(taken, 3),
                "times faster": round(exact / taken, 1),
                "recall@10": round(float(np.mean(hits)) / 10, 4),
            }
        found[count] = report
        print(count, report, file=sys.stderr, flush=True)
    return found


def _searched(index: Any, queries: Floats) -> tuple[float, Any]:
    index.search(queries[:16], 10)
    started = time.perf_counter()
    result = index.search(queries, 10)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
