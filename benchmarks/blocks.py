"""A join in blocks of prepared rows, against a single call, alternating in one process.

python -m benchmarks.blocks [--rows 60000] [--dim 576] [--blocks 16] [--threshold 0.9] [--k 10]

The rows are families of noisy copies: unit vectors about a center, of many numbers of which few
vary much, as features of images do. Both ways must give the same bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from imgsim_assets.similarity import prepare_rows, split_rows, threshold_join, top_k
from imgsim_assets.similarity.cosine import Floats

Found = tuple[np.ndarray, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    left, right = families(options.rows, options.dim, 1), families(options.rows, options.dim, 2)
    threshold, k, threads = options.threshold, options.k, options.threads

    def join() -> Found:
        return threshold_join(left, right, threshold, threads=threads)

    def join_blocks(count: int) -> Found:
        rows = prepare_rows(left, threads=threads)
        references = prepare_rows(right, others=rows, threshold=threshold, threads=threads)
        found = []
        for first, some in split_rows(rows, count):
            i, j, similarity = threshold_join(some, references, threshold, threads=threads)
            found.append((i + first, j, similarity))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def neighbors() -> Found:
        return top_k(left, right, k, threads=threads)

    def neighbors_blocks(count: int) -> Found:
        rows = prepare_rows(left, threads=threads)
        references = prepare_rows(right, others=rows, k=k, threads=threads)
        found = [top_k(some, references, k, threads=threads) for _, some in split_rows(rows, count)]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    _compare("threshold_join", join, join_blocks, options)
    _compare("top_k", neighbors, neighbors_blocks, options)


def families(rows: int, dim: int, seed: int) -> Floats:
    """Unit rows about a center; every tenth is a copy with 5 % of noise of one of either side."""
    shared = np.random.default_rng(0)
    scales = (1 / (1 + np.arange(dim))).astype(np.float32)
    rotation = np.linalg.qr(shared.standard_normal((dim, dim)))[0].astype(np.float32)
    center = 0.5 * shared.standard_normal(dim).astype(np.float32) * scales.mean()
    originals = shared.standard_normal((max(1, rows // 10), dim), dtype=np.float32) * scales
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, dim), dtype=np.float32) * scales
    copies = np.arange(0, rows, 10)
    noise = random.standard_normal((len(copies), dim), dtype=np.float32) * scales
    vectors[copies] = originals[: len(copies)] + np.float32(0.05) * noise
    vectors = (vectors + center) @ rotation
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _compare(
    name: str,
    single: Callable[[], Found],
    blocks: Callable[[int], Found],
    options: argparse.Namespace,
) -> None:
    seconds: dict[int, list[float]] = {count: [] for count in (0, *options.blocks)}
    results: dict[int, Found] = {}
    for _ in range(options.rounds):
        for count, taken in seconds.items():
            started = time.process_time()
            results[count] = blocks(count) if count else single()
            taken.append(time.process_time() - started)
    base = median(seconds[0])
    print(f"{name}, {options.rows:,} x {options.rows:,} x {options.dim}: one call {base:.2f} CPU s")
    for count in options.blocks:
        same = all(map(np.array_equal, results[0], results[count]))
        split = median(seconds[count])
        print(f"  {count:>4} blocks {split:.2f} CPU s, {split / base:.2f} of it; same bits: {same}")


if __name__ == "__main__":
    main()
