"""A change of 1 % of a match table or a similarity graph, beside computing all of it.

    python -m benchmarks.incremental_join [--rows 180000] [--dim 576] [--results all nearest graph]

`all` are the pairs of two catalogs at 0.9, `nearest` the 11 nearest above 0.5, `graph` the 10
nearest items of a catalog. A row is the sum of two of 2,000 random directions and noise. Each run
is that of the stage, in a process of its own: it reads the inputs, decides what has changed,
compares rows and commits. The times, of processors and elapsed, begin when the libraries are
loaded. `reading` is the reading of vectors, `comparing` that of rows; all else is `rest`.

With `--results all --part 16` only a sixteenth of the full computation is done: the first left rows
are compared with all right rows, and the time is multiplied by 16. The other lists are found among
the rows that share a direction, which are known here; those of the sixteenth must be equal. Nearest
rows need not share one, so `nearest` and `graph` are computed in full.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import polars as pl

from benchmarks.catalog_memory import in_process
from imgsim_assets.encoders import vectors as vector_table
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity import neighbor_lists
from imgsim_assets.similarity.block_join import Lists, join, kept_lists
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.references import References
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

R = TypeVar("R")

_ENCODER = "f" * 16
_LEFT, _RIGHT = "left", "right"
_RESULTS = ("all", "nearest", "graph")
_DIRECTIONS = 2000
_WEIGHTS = (0.5, 0.35, 0.15)
_ROWS_PER_APPEND = 4096
# One row of so many changes.
_CHANGED = 100
# How far a float32 product may be off.
_ROUNDING = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=180_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--results", nargs="+", choices=_RESULTS, default=list(_RESULTS))
    parser.add_argument("--part", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder of the stores; default: a temporary one")
    options = parser.parse_args()
    if options.part > 1 and options.results != ["all"]:
        parser.error("--part: only for '--results all'; nearest rows need not share a direction")
    processes = multiprocessing.get_context("spawn")
    for result in options.results:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            catalogs = [_LEFT] if result == "graph" else [_LEFT, _RIGHT]
            in_process(processes, _fill, Path(folder), catalogs, options.rows, options.dim)
            first = in_process(processes, _run, Path(folder), result, options.part)
            print(f"{result}, {options.rows:,} x {options.dim}: {first.text()}", flush=True)
            changes = [*([name] for name in catalogs), *([catalogs] if len(catalogs) > 1 else [])]
            for number, changed in enumerate(changes):
                in_process(processes, _change, Path(folder), changed, number)
                run = in_process(processes, _run, Path(folder), result)
                print(f"  {' and '.join(changed)} changed: {run.text_beside(first)}", flush=True)


# ---- times ------------------------------------------------------------------------------


class Seconds(NamedTuple):
    """Processor time and elapsed time."""

    processor: float
    elapsed: float

    @classmethod
    def now(cls) -> Seconds:
        """The present times."""
        return cls(time.process_time(), time.perf_counter())

    def since(self, other: Seconds) -> Seconds:
        """What has passed since other times."""
        return Seconds(self.processor - other.processor, self.elapsed - other.elapsed)

    def plus(self, other: Seconds, times: float = 1) -> Seconds:
        """The sum of these and so many times the others."""
        return Seconds(
            self.processor + times * other.processor, self.elapsed + times * other.elapsed
        )

    def beside(self, whole: Seconds) -> str:
        """The fractions of another time."""
        processor, elapsed = self.processor / whole.processor, self.elapsed / whole.elapsed
        return f"{processor:.2%} ({elapsed:.2%})"


_NONE = Seconds(0, 0)


class Run(NamedTuple):
    """The times of a stage, and the peak of its memory in bytes."""

    reading: Seconds
    comparing: Seconds
    rest: Seconds
    peak: int

    @property
    def total(self) -> Seconds:
        """Of all parts."""
        return self.reading.plus(self.comparing).plus(self.rest)

    def text(self) -> str:
        """The times as text, processor time first."""
        parts = {"in all": self.total, **self._asdict()}
        times = ", ".join(
            f"{name} {seconds.processor:.2f} s ({seconds.elapsed:.2f} s)"
            for name, seconds in parts.items()
            if isinstance(seconds, Seconds)
        )
        return f"{times}; {self.peak / 2**20:.0f} MiB"

    def text_beside(self, full: Run) -> str:
        """The times, and which fractions of the full computation they are."""
        return (
            f"{self.total.beside(full.total)} of all, "
            f"comparing {self.comparing.beside(full.comparing)}; {self.text()}"
        )


# ---- catalogs ---------------------------------------------------------------------------


def _fill(folder: Path, names: list[str], rows: int, dim: int) -> None:
    store = Store.open(folder)
    for name in names:
        labels = np.random.default_rng(len(name)).integers(0, _DIRECTIONS, (rows, 2))
        np.save(folder / f"{name}.npy", labels)
        np.save(folder / f"{name}-versions.npy", np.zeros(rows, np.int64))
        _store_rows(store, folder, name, np.arange(rows), dim)


def _change(folder: Path, names: list[str], number: int) -> None:
    """Give one row of a hundred other directions: not those of other numbers."""
    store = Store.open(folder)
    for name in names:
        labels = np.load(folder / f"{name}.npy")
        versions = np.load(folder / f"{name}-versions.npy")
        rows = np.arange(number, len(labels), _CHANGED)
        labels[rows] = np.random.default_rng(number).integers(0, _DIRECTIONS, (len(rows), 2))
        versions[rows] += 1 + number
        np.save(folder / f"{name}.npy", labels)
        np.save(folder / f"{name}-versions.npy", versions)
        dim = VectorTable(store, name, _ENCODER).dim or 0
        _store_rows(store, folder, name, rows, dim)


def _store_rows(store: Store, folder: Path, name: str, rows: Indices, dim: int) -> None:
    """Store the vectors of some rows, then the embeddings and the index of all."""
    labels, versions = (np.load(folder / f"{name}{end}.npy") for end in ("", "-versions"))
    keys = [
        hashlib.sha256(f"{name} {row} {version}".encode()).hexdigest()
        for row, version in enumerate(versions.tolist())
    ]
    directions = np.random.default_rng(0).standard_normal((_DIRECTIONS, dim), dtype=np.float32)
    random = np.random.default_rng([len(name), int(versions.sum())])
    vectors = VectorTable(store, name, _ENCODER)
    # Sorting files takes longer than the joins.
    with patch.object(vector_table, "compaction_is_due", _never):
        for start in range(0, len(rows), _ROWS_PER_APPEND):
            part = rows[start : start + _ROWS_PER_APPEND]
            noise = random.standard_normal((len(part), dim), dtype=np.float32)
            terms = (directions[labels[part, 0]], directions[labels[part, 1]], noise)
            sums = sum(np.float32(w) * term for w, term in zip(_WEIGHTS, terms, strict=True))
            unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
            some = [keys[row] for row in part.tolist()]
            vectors.append(VectorRows(some, unit, np.ones(len(part), np.float32)))
    ids = [f"{row:09d}" for row in range(len(keys))]
    images = pl.DataFrame({"id": ids, "sha256": keys}).select(
        pl.all(),
        pl.lit(0, pl.Int32).alias("image"),
        pl.lit("ok").alias("status"),
        pl.lit(value=False).alias("truncated"),
        pl.lit(None, pl.String).alias("detail"),
    )
    table = embeddings_table(store, name)
    latest = table.latest()
    version = latest.inputs["images"] + 1 if latest is not None else 1
    file = table.write_rows(images.select(list(SCHEMA))).with_metadata(**{FINGERPRINT: _ENCODER})
    properties = {FINGERPRINT: _ENCODER, "encoder": {"name": "hog_color"}}
    table.commit(lambda _: PendingCommit([file], {"images": version}, properties))
    IndexStage(store, name).run()


def _never(*_: object) -> bool:
    return False


# ---- runs -------------------------------------------------------------------------------


def _run(folder: Path, result: str, part: int = 1) -> Run:
    import faiss  # noqa: F401 - loading it is no part of a run

    store = Store.open(folder)
    stage: MatchStage | GraphStage
    if result == "graph":
        stage = GraphStage(store, _LEFT, GraphSettings(k=10))
    elif result == "all":
        settings = MatchSettings(mode="all", threshold=0.9)
        stage = MatchStage(store, result, settings, left=_LEFT, right=_RIGHT)
    else:
        settings = MatchSettings(mode="top_k", k=11, threshold=0.5)
        stage = MatchStage(store, result, settings, left=_LEFT, right=_RIGHT)
    search = _Search() if part == 1 else _PartialSearch(folder, part)
    started = Seconds.now()
    with patch.object(neighbor_lists, "join", search):
        report = stage.run()
    total = Seconds.now().since(started)
    if not report.changed:
        raise AssertionError("the run was to find something to do")
    rest = total.plus(search.all, -1)
    return Run(search.reading, search.comparing.plus(search.comparing, part - 1), rest, _peak())


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


class _Search:
    """The search of a stage, timed: of it all, of the reading of vectors, and of comparing rows."""

    def __init__(self) -> None:
        self.all = self.reading = self.comparing = _NONE

    def __call__(
        self, left: JoinSide, right: References, spec: JoinSpec, minimum: Doubles
    ) -> Lists:
        """The search, as the stage calls it."""
        with self._timed("all"):
            return self._found(left, right, spec, minimum)

    def _found(self, left: JoinSide, right: References, spec: JoinSpec, minimum: Doubles) -> Lists:
        before = self.reading
        with self._timed("comparing"), self._timed_reads():
            found = join(left, right, spec, minimum)
        self.comparing = self.comparing.plus(self.reading, -1).plus(before)
        return found

    @contextmanager
    def _timed_reads(self) -> Iterator[None]:
        """Within the context, what reads vectors is timed."""
        is_reading = False

        @contextmanager
        def reading() -> Iterator[None]:
            nonlocal is_reading
            if is_reading:
                yield
                return
            is_reading = True
            with self._timed("reading"):
                yield
            is_reading = False

        def timed(read: Callable[..., R]) -> Callable[..., R]:
            def call(*arguments: Any) -> R:
                with reading():
                    return read(*arguments)

            return call

        def scan(vectors: VectorBlocks) -> Iterator[Part]:
            parts = scanned(vectors)
            while True:
                with reading():
                    part = next(parts, None)
                if part is None:
                    return
                yield part

        scanned = VectorBlocks.scan
        with ExitStack() as patches:
            patches.enter_context(patch.object(VectorBlocks, "scan", scan))
            for name in ("read", "rows", "open"):
                method = timed(getattr(VectorBlocks, name))
                patches.enter_context(patch.object(VectorBlocks, name, method))
            # The width of rows is known when they are read.
            dim = property(timed(vars(VectorBlocks)["dim"].fget))
            patches.enter_context(patch.object(VectorBlocks, "dim", dim))
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = Seconds.now()
        yield
        setattr(self, name, getattr(self, name).plus(Seconds.now().since(started)))


class _PartialSearch(_Search):
    """A search that compares a part of the left rows with all; of others, it knows what is similar.

    Of the pairs of a left row, the others have its first direction, or any direction twice.
    """

    def __init__(self, folder: Path, part: int) -> None:
        super().__init__()
        self._left, self._right = (np.load(folder / f"{name}.npy") for name in (_LEFT, _RIGHT))
        self._count = len(self._left) // part

    def _found(self, left: JoinSide, right: References, spec: JoinSpec, minimum: Doubles) -> Lists:
        with self._timed("reading"):
            left.vectors.open()
            right.side.vectors.open()
        found = self._known(left, right.side, spec, minimum)
        if self.comparing == _NONE:
            part = super()._found(left.slice(0, self._count), right, spec, minimum[: self._count])
            for compared, known in zip(part, found, strict=True):
                np.testing.assert_array_equal(compared, known[: len(compared)])
        return found

    def _known(self, left: JoinSide, right: JoinSide, spec: JoinSpec, minimum: Doubles) -> Lists:
        rows, others = left.vectors.all(), self._vectors(right)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        of_right = _rows_by(*self._right.T)
        twice = np.flatnonzero(self._right[:, 0] == self._right[:, 1])
        for direction, some in _rows_by(self._left[left.item, 0]).items():
            near = np.union1d(of_right.get(direction, twice), twice)
            products = rows[some] @ others[near].T
            i, j = np.nonzero(products >= minimum[some][:, None] - _ROUNDING)
            found.append((some[i], near[j]))
        i, j = (np.concatenate(numbers) for numbers in zip(*found, strict=True))
        cosines = pair_cosines(rows, others, i, j)
        reached = np.flatnonzero(cosines >= minimum[i])
        order = reached[np.lexsort((j[reached], -cosines[reached], i[reached]))]
        return kept_lists((i[order], j[order], cosines[order]), left, right, spec)

    def _vectors(self, side: JoinSide) -> Floats:
        if self._all is None:
            self._all = side.vectors.all()
        return self._all

    _all: Floats | None = None


def _rows_by(*labels: Indices) -> dict[int, Indices]:
    """The rows that have a label."""
    every = np.concatenate(labels)
    order = np.argsort(every, kind="stable")
    values, start = np.unique(every[order], return_index=True)
    rows = np.tile(np.arange(len(labels[0])), len(labels))[order]
    return dict(zip(values.tolist(), np.split(rows, start[1:]), strict=True))


if __name__ == "__main__":
    main()
