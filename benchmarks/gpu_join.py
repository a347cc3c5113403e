"""Joins on a GPU: pairs per second, the fraction of its matmul rate, and equality with the CPU.

    python -m benchmarks.gpu_join

`equal` compares joins of the GPU with those of the CPU bit by bit, `rate` measures the GPU's
matrix products and the steps of one tile, `million` joins 1,000,000 x 1,000,000 rows of 576 numbers
(10^12 pairs), `similar` rows of which about 1 pair in 6,000 matches, `nearest` searches neighbors.
`start` times what `device: auto` weighs: the start of torch and CUDA, and joins of both devices.

Prints one line of JSON for each; all should take less than five minutes on an H200. Needs torch,
NumPy, pydantic, threadpoolctl and faiss-cpu, of what the package depends on. `--dry-run` runs all
of it at a small size on torch's CPU device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from imgsim_assets.encoders.torch_device import with_float32_sums
from imgsim_assets.similarity import prepare_rows, scan, threshold_join, top_k
from imgsim_assets.similarity.cosine import pair_cosines
from imgsim_assets.similarity.device_rows import DeviceRows, fast_dtype, score_error, scores
from imgsim_assets.similarity.join_input import JoinInput

DIM = 576
THRESHOLD = 0.8
K = 10
Floats = NDArray[np.float32]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", metavar="job", help=f"{', '.join(JOBS)}; default: all")
    parser.add_argument("--dry-run", action="store_true", help="small, on torch's CPU device")
    options = parser.parse_args()
    device = torch.device("cpu" if options.dry_run else "cuda")
    size = 0.002 if options.dry_run else 1.0
    if options.dry_run:
        chosen = mock.patch.object(scan, "chosen_device", _dry_run_device)
        chosen.start()
    rate_of_gpu = None
    for name in options.jobs or JOBS:
        started = time.perf_counter()
        report = JOBS[name](device, size)
        rate_of_gpu = report.get("square_tflops") or rate_of_gpu
        if "tflops" in report and rate_of_gpu:
            report["fraction_of_matmul_rate"] = round(report["tflops"] / rate_of_gpu, 2)
        seconds = round(time.perf_counter() - started, 1)
        print(json.dumps({"job": name, **report, "job_seconds": seconds}), flush=True)


def _dry_run_device(multiply_adds: int) -> torch.device | None:
    """Torch's CPU device, unless the CPU is declared."""
    from imgsim_assets.compute.device import use_device

    with use_device(None) as declared:
        return None if declared.declared == "cpu" or not multiply_adds else torch.device("cpu")


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _declared(device: torch.device) -> str:
    return "auto" if device.type == "cpu" else "cuda"


# ---- rows ---------------------------------------------------------------------------------


def unrelated(count: int, device: torch.device, seed: int) -> Floats:
    """Rows whose cosines are near 0."""
    random = torch.Generator(device).manual_seed(seed)
    rows = torch.randn((count, DIM), generator=random, device=device)
    normalized: Floats = torch.nn.functional.normalize(rows).cpu().numpy()
    return normalized


def planted(
    left: Floats, device: torch.device, seed: int
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """As many unrelated rows, of which a tenth are left rows with noise; and which those are."""
    right = unrelated(len(left), device, seed)
    random = np.random.default_rng(seed)
    count = len(left) // 10
    i, j = (random.permutation(len(left))[:count] for _ in range(2))
    noise = unrelated(count, device, seed + 1) * random.uniform(0, 1, (count, 1)).astype(np.float32)
    mixed = left[i] + noise
    right[j] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return right, i, j


def clustered(count: int, device: torch.device, seed: int) -> Floats:
    """Rows of 2,500 clusters, of cosines from 0.6 to 0.95 inside a cluster."""
    random = torch.Generator(device).manual_seed(seed)
    centers = torch.randn(
        (2500, DIM), generator=torch.Generator(device).manual_seed(0), device=device
    )
    which = torch.randint(0, len(centers), (count,), generator=random, device=device)
    spread = 0.25 + 0.55 * torch.rand((count, 1), generator=random, device=device)
    rows = centers[which] + spread * torch.randn((count, DIM), generator=random, device=device)
    normalized: Floats = torch.nn.functional.normalize(rows).cpu().numpy()
    return normalized


# ---- jobs ---------------------------------------------------------------------------------


def equal(device: torch.device, size: float) -> dict[str, Any]:
    """Joins and searches of both devices have the same bits."""
    gpu = _declared(device)
    count = max(500, int(40_000 * size))
    kinds = {
        "unrelated": (unrelated(count, device, 1), unrelated(count, device, 2)),
        "clustered": (clustered(count, device, 1), clustered(count, device, 2)),
    }
    report: dict[str, Any] = {"rows": count, "equal": True}
    for kind, (left, right) in kinds.items():
        threshold = 0.15 if kind == "unrelated" else THRESHOLD
        pairs = [threshold_join(left, right, threshold, device=name) for name in (gpu, "cpu")]
        nearest = [top_k(left, right, K, device=name) for name in (gpu, "cpu")]
        report[f"pairs_{kind}"] = len(pairs[0][0])
        report["equal"] &= all(
            one.tobytes() == other.tobytes()
            for results in (pairs, nearest)
            for one, other in zip(*results, strict=True)
        )
    return report


def rate(device: torch.device, size: float) -> dict[str, Any]:
    """TFLOP/s of square and of tile products, and milliseconds of the steps of a tile."""
    n = 8192 if size == 1 else 64
    dtype = fast_dtype(device)
    square = torch.randn((n, n), device=device).to(dtype)
    report: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "dry run",
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "square_tflops": round(2e-9 * n**3 / _milliseconds(device, lambda: square @ square)),
    }
    rows = [
        DeviceRows.of(
            JoinInput.of(unrelated(count, device, count), "rows"), 0, count, device, dtype
        )
        for count in (n, 4 * n)
    ]
    left, right = rows
    with with_float32_sums():
        product = scores(left.rounded, right.rounded)
        exact = left.whole.double() @ right.whole.double().T
        report["greatest_error"] = float((product - exact).abs().max())
        report["proven_bound"] = score_error(left, right)
        del exact
        tile = _milliseconds(device, lambda: scores(left.rounded, right.rounded))
    mask = product >= THRESHOLD
    steps = {
        "product": tile,
        "compare": _milliseconds(device, lambda: product >= THRESHOLD),
        "count": _milliseconds(device, mask.count_nonzero),
        "compact": _milliseconds(device, mask.nonzero),
    }
    report["tile_tflops"] = round(2e-9 * n * 4 * n * DIM / tile)
    report["tile_ms"] = {name: round(value, 3) for name, value in steps.items()}
    return report


def _milliseconds(device: torch.device, work: Callable[[], Any], repeat: int = 10) -> float:
    for _ in range(3):
        work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    _wait(device)
    return 1e3 * (time.perf_counter() - started) / repeat


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def million(device: torch.device, size: float) -> dict[str, Any]:
    """1,000,000 x 1,000,000 rows above 0.8, of which a tenth have a planted match."""
    left = unrelated(int(1_000_000 * size), device, 1)
    right, i, j = planted(left, device, 2)
    expected = np.sort(pair_cosines(left, right, i, j))
    found, report = _joined(left, right, device)
    reported = np.sort(found[2])
    # Unrelated rows are nowhere near the threshold, so that the planted ones are all.
    report["found_all"] = np.array_equal(reported, expected[expected >= THRESHOLD])
    return report


def similar(device: torch.device, size: float) -> dict[str, Any]:
    """200,000 x 200,000 rows of clusters, of which many pairs match."""
    left, right = (clustered(int(200_000 * size), device, seed) for seed in (1, 2))
    return _joined(left, right, device)[1]


def _joined(left: Floats, right: Floats, device: torch.device) -> tuple[Any, dict[str, Any]]:
    gpu = _declared(device)
    checking, (first, second) = _timed(lambda: [prepare_rows(side) for side in (left, right)])
    # The first join starts CUDA's libraries, which `start` measures.
    threshold_join(left[:2000], right[:2000], THRESHOLD, device=gpu)
    joining, found = _timed(lambda: threshold_join(first, second, THRESHOLD, device=gpu))
    pairs = len(left) * len(right)
    report: dict[str, Any] = {
        "rows": [len(left), len(right)],
        "pairs": pairs,
        "matches": len(found[0]),
        "check_seconds": round(checking, 2),
        "join_seconds": round(joining, 2),
        "pairs_per_second": float(f"{pairs / joining:.3g}"),
        "tflops": round(2e-12 * pairs * DIM / joining, 1),
    }
    if device.type == "cuda":
        report["most_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return found, report


def nearest(device: torch.device, size: float) -> dict[str, Any]:
    """The 10 nearest of 500,000 rows for 100,000 rows."""
    gpu = _declared(device)
    queries, references = (
        prepare_rows(clustered(int(count * size), device, count)) for count in (100_000, 500_000)
    )
    seconds, _ = _timed(lambda: top_k(queries, references, K, device=gpu))
    pairs = len(queries) * len(references)
    return {"seconds": round(seconds, 2), "pairs_per_second": float(f"{pairs / seconds:.3g}")}


_START = """
import time
started = time.perf_counter()
import torch
torch.mm(torch.ones((64, 64), device="{device}"), torch.ones((64, 64), device="{device}")).cpu()
print(time.perf_counter() - started)
"""


def start(device: torch.device, size: float) -> dict[str, Any]:
    """Seconds to start torch and CUDA, and of joins of both devices at several sizes."""
    command = [sys.executable, "-c", _START.format(device=device.type)]
    started = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = {"start_seconds": round(float(started.stdout), 2)}
    gpu = _declared(device)
    for count in (2000, 5000, 20_000, 50_000):
        sides = [unrelated(int(count * max(size, 0.02)), device, seed) for seed in (1, 2)]
        inputs = [prepare_rows(side) for side in sides]
        report[f"{count}"] = {name: _fastest(inputs, name) for name in (gpu, "cpu")}
    return report


def _fastest(inputs: list[JoinInput], device: str) -> float:
    left, right = inputs
    times = [_timed(lambda: threshold_join(left, right, 0.9, device=device))[0] for _ in range(3)]
    return round(min(times), 4)


JOBS: dict[str, Callable[[torch.device, float], dict[str, Any]]] = {
    "equal": equal,
    "rate": rate,
    "million": million,
    "similar": similar,
    "nearest": nearest,
    "start": start,
}

if __name__ == "__main__":
    main()
