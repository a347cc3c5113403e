"""Approximate nearest neighbors of large catalogs: time and recall, beside FAISS's indexes alone.

    python -m benchmarks.approximate --vectors caltech101.npy clothing.npy grocery.npy \
        --rows 50000 100000 200000 [--faiss 50000] [--exact 50000]
    python -m benchmarks.approximate --rows 1000000 --noise 1.25

The vectors (.npy, n x d) are those of real images, of one encoder; without them, vectors are made
whose 10th neighbors are about as near as those of photographs by MobileNetV2. They are rotated to
their 576 leading directions (`--dim`), and each row of a catalog is a mixture: of a row, three of
its 16 nearest, and differences of random pairs of rows. How much of the differences is added is
fitted for each number of rows, so that the cosines of rows to their 10th neighbors are distributed
as among the vectors; both distributions are printed. A million rows take 2.2 GiB, and fitting their
noise as long as the graph. A graph of 10 neighbors is computed and
stored as the package does, and is updated after 1 % of the rows have changed; "together" has all
steps but reading the vectors and committing. FAISS searches 2,000 of the rows with more and more
probes until it has the same recall; its time is scaled to all rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from imgsim_assets.similarity.approximate import search
from imgsim_assets.similarity.approximate.search import CENTROIDS, recall_of
from imgsim_assets.similarity.block_join import join
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import NEIGHBOR_LISTS, MaterializedResult
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD, MIN_RECALL
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

DIM, K = 576, 10
SPEC = JoinSpec(k=K, exclude_self=True)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NEAR, _PARTNERS, _DIFFERENCES = 16, 3, 8
_MADE, _NUMBERS = 11_500, 7
_BLOCK, _FITTED_ROWS, _FAISS_QUERIES = 8192, 300, 2000
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=Path, nargs="+", help="default: made vectors")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--exact", type=int, nargs="*", default=[], help="also exactly")
    parser.add_argument("--faiss", type=int, nargs="*", default=[], help="also by FAISS alone")
    parser.add_argument(
        "--noise", type=float, nargs="*", help="fitted before, for each number of rows"
    )
    parser.add_argument("--dim", type=int, default=DIM, help="numbers of a row")
    parser.add_argument("--min-recall", type=float, default=0.98)
    options = parser.parse_args()
    paths = options.vectors
    vectors = np.concatenate([np.load(path) for path in paths]) if paths else made_vectors()
    pool = Pool.of(vectors, options.dim)
    print("10th neighbors of the vectors:", _text(pool.tenth), flush=True)
    for number, count in enumerate(options.rows):
        noise = options.noise[number] if options.noise else pool.fitted_noise(count)
        rows = pool.mixtures(count, noise, seed=1)
        found = {"noise": noise, "10th neighbors": _text(_sampled_tenth(rows))}
        if count in options.exact:
            side = JoinSide.of(_items(rows, np.arange(count)))
            found["exact"] = _timed(partial(join, side, side, SPEC, np.full(count, -1.0)))[0]
        if count in options.faiss:
            found |= faiss_alone(rows, options.min_recall)
        found |= approximate(rows, options.min_recall)
        print(json.dumps({count: found}, indent=2), flush=True)


def made_vectors() -> Floats:
    """Vectors (n, d) that vary smoothly with a few numbers, so that lists have no natural borders.

    How near the 10th neighbors are, and how many lists have to be probed, is about as for the
    vectors of photographs by MobileNetV2.
    """
    random = np.random.default_rng(0)
    numbers = random.standard_normal((_MADE, _NUMBERS)) * (1 + np.arange(_NUMBERS)) ** -0.25
    waves = 0.4 * random.standard_normal((_NUMBERS, DIM))
    rows = np.cos(numbers @ waves + random.uniform(0, 2 * np.pi, DIM))
    # Some have nearer neighbors than others.
    spread = 0.28 * random.uniform(0.3, 1.7, (_MADE, 1))
    rows += spread * random.standard_normal((_MADE, DIM))
    # Variances fall as those of an encoder's directions do.
    made: Floats = (rows * (1 + np.arange(DIM)) ** -0.25).astype(np.float32)
    return made


@dataclass(frozen=True)
class Pool:
    """Rows (n, d), the nearest of each (n, 16), and the cosine to the 10th (n,)."""

    rows: Floats
    near: Indices
    tenth: Doubles

    @classmethod
    def of(cls, vectors: Floats, dim: int) -> Pool:
        """The pool of some vectors of any length."""
        wide = vectors.astype(np.float64)
        _, directions = np.linalg.eigh(wide.T @ wide)
        rows = _unit(vectors @ directions[:, ::-1][:, :dim].astype(np.float32))
        parts = [
            _nearest(rows[at : at + 1024], rows, _NEAR + 1) for at in range(0, len(rows), 1024)
        ]
        near, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(rows, near[:, 1:], cosines[:, K])

    def mixtures(self, count: int, noise: float, seed: int) -> Floats:
        """(count, d) rows made of those of the pool."""
        random = np.random.default_rng(seed)
        mixed = np.empty((count, self.rows.shape[1]), dtype=np.float32)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            chosen = random.integers(0, len(self.rows), size)
            partners = self.near[chosen[:, None], random.integers(0, _NEAR, (size, _PARTNERS))]
            weights = random.dirichlet(np.ones(1 + _PARTNERS), size).astype(np.float32)
            rows = weights[:, :1] * self.rows[chosen]
            for number in range(_PARTNERS):
                rows += weights[:, number + 1, None] * self.rows[partners[:, number]]
            differences = np.zeros_like(rows)
            for _ in range(_DIFFERENCES):
                a, b = random.integers(0, len(self.rows), (2, size))
                differences += self.rows[a] - self.rows[b]
            # A row far from its neighbors gets more, so that sparse regions stay sparse.
            scale = noise * np.sqrt(1 - self.tenth[chosen])[:, None].astype(np.float32)
            mixed[start : start + size] = _unit(_unit(rows) + scale * _unit(differences))
        return mixed

    def fitted_noise(self, count: int) -> float:
        """The noise at which the median cosine to the 10th neighbor is that of the pool."""
        low, high = 0.5, 2.5
        target = float(np.median(self.tenth))
        for _ in range(6):
            middle = (low + high) / 2
            median = float(np.median(_sampled_tenth(self.mixtures(count, middle, seed=2))))
            low, high = (middle, high) if median > target else (low, middle)
        return round((low + high) / 2, 3)


def approximate(rows: Floats, min_recall: float) -> dict[str, Any]:
    """Seconds and processor seconds of a graph and of an update, and what it has.

    A hundredth of the rows is changed in place.
    """
    rng = np.random.default_rng(3)
    changed = np.sort(rng.choice(len(rows), len(rows) // 100, replace=False))
    hashes = rng.integers(0, 2**63, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        table = Store.open(folder).table("matches/graph")
        steps = {"in full": _computed(table, _items(rows, hashes), min_recall)}
        # Other rows of the same distribution.
        rows[changed] = rows[rng.permutation(changed)]
        hashes[changed] += 1
        steps["1 % of the rows changed"] = _computed(table, _items(rows, hashes), min_recall)
        commit = table.latest()
        assert commit is not None
        return {**steps, **_described(commit), "peak MiB": round(_peak())}


def _computed(table: Table, items: Items, min_recall: float) -> dict[str, list[float]]:
    """Compute or update the lists of a graph, and commit them."""
    steps: dict[str, list[float]] = {}
    result = MaterializedResult.for_recipe(
        table, table.latest(), {METHOD: APPROXIMATE, MIN_RECALL: min_recall}
    )
    update = partial(
        updated_lists,
        result,
        items,
        items,
        SPEC,
        attrgetter("is_unchanged"),
        role=NEIGHBOR_LISTS,
        cached=result.cached_lists(),
    )
    with _timed_steps(steps):
        steps["together"], lists = _timed(update)
    result.commit(lists.files, items, items, {})
    return steps


@contextmanager
def _timed_steps(steps: dict[str, list[float]]) -> Iterator[None]:
    """Within the context, time what comes before the join."""
    names = {
        "train_for": "training and choosing probes",
        "assign_rows": "lists of the rows",
        "recall_meter": "exact pairs of the sample",
    }
    originals = {name: getattr(search, name) for name in names}

    def timed(name: str, *arguments: Any) -> Any:
        steps[names[name]], result = _timed(partial(originals[name], *arguments))
        return result

    for name in names:
        setattr(search, name, partial(timed, name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(search, name, original)


def _described(commit: Commit) -> dict[str, Any]:
    """The inverted lists of a commit, its recall, and the sizes of its files."""
    recall, centroids = recall_of(commit), commit.file_with_role(CENTROIDS)
    assert recall is not None
    assert centroids is not None
    sizes: dict[str, float] = defaultdict(float)
    for file in commit.files:
        sizes[file.role] += file.bytes / 2**20
    return {
        "lists": centroids.rows,
        "nprobe": centroids.metadata["nprobe"],
        "recall": recall.value,
        "MiB by role": {role: round(size, 1) for role, size in sizes.items()},
    }


def faiss_alone(rows: Floats, min_recall: float) -> dict[str, Any]:
    """IndexIVFFlat and IndexHNSWFlat: building, and searching at the recall."""
    import faiss

    count, dim = rows.shape
    queries = rows[np.linspace(0, count - 1, _FAISS_QUERIES).astype(np.int64)]
    exact, _ = _nearest(queries, rows, K + 1)
    lists = 4 * int(count**0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.cp.niter, ivf.cp.max_points_per_centroid = 8, 48
    hnsw = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)

    def build(index: Any) -> None:
        index.train(rows)
        index.add(rows)

    def probe(value: int) -> None:
        ivf.nprobe = value

    def explore(value: int) -> None:
        hnsw.hnsw.efSearch = value

    found = {}
    for name, index, setting in (("IndexIVFFlat", ivf, probe), ("IndexHNSWFlat", hnsw, explore)):
        built, _ = _timed(partial(build, index))
        for value in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512):
            setting(value)
            taken, (_, labels) = _timed(partial(index.search, queries, K + 1))
            hits = [len(np.intersect1d(a, b)) for a, b in zip(labels, exact, strict=True)]
            recall = float(np.mean(hits)) / (K + 1)
            if recall >= min_recall:
                break
        scaled = [round(seconds * count / _FAISS_QUERIES, 1) for seconds in taken]
        found[name] = {
            "building": built,
            "nprobe or efSearch": value,
            "recall": round(recall, 4),
            "searching all rows": scaled,
        }
    return found


def _items(rows: Floats, hashes: Indices) -> Items:
    keys = pl.DataFrame(
        {
            "id": [f"{number:09d}" for number in range(len(rows))],
            "image": np.zeros(len(rows), np.int32),
            "sha256": [f"{value:016x}" for value in hashes.tolist()],
        }
    )
    return Items(keys, rows)


def _sampled_tenth(rows: Floats) -> Doubles:
    """The cosines of some rows to their 10th neighbors."""
    sampled = np.linspace(0, len(rows) - 1, _FITTED_ROWS).astype(np.int64)
    return _nearest(rows[sampled], rows, K + 1)[1][:, K]


def _nearest(queries: Floats, rows: Floats, k: int) -> tuple[Indices, Doubles]:
    """The k nearest rows of each query, itself among them, by float32 products."""
    import faiss

    cosines, numbers = faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    return numbers, cosines.astype(np.float64)


def _unit(rows: Floats) -> Floats:
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _timed(work: Callable[[], T]) -> tuple[list[float], T]:
    """Seconds and processor seconds of a call, and its result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    taken = (time.perf_counter() - started, time.process_time() - used)
    return [round(seconds, 1) for seconds in taken], result


def _text(cosines: Doubles) -> str:
    values = np.quantile(cosines, QUANTILES)
    return ", ".join(f"{q:.0%} {v:.3f}" for q, v in zip(QUANTILES, values, strict=True))


def _peak() -> float:
    """Peak memory so far in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
