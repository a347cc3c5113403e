"""Checking results against the definition, by a plain product over a seeded sample.

Nothing here is shared with the code that makes the results: vectors are read from the
embeddings, multiplied in float64 as they are, and compared with what is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity import items
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS
from imgsim_assets.similarity.pairs import LEAST, Items
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Two ways to sum a float64 product differ by less; pairs this near the bar may fall on
# either side of it.
_TOLERANCE = 1e-6
_PIECE = 8192
# Scores that are held at once.
_SCORES = 1 << 24
_EXAMPLES = 5


@dataclass(frozen=True)
class Audit:
    """What a sample showed: how many items were asked, and pairs that should not be so."""

    sampled: int
    missing: int
    false: int
    examples: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was missing and nothing false."""
        return not self.missing and not self.false


@dataclass(frozen=True)
class _Expected:
    """Which of the other items one item must and may be paired with, and how many in all."""

    surely: NDArray[np.bool_]
    possibly: NDArray[np.bool_]
    least: int
    most: int


def audit_matches(store: Store, name: str, *, sample: int, seed: int = 0) -> Audit:
    """Audit the newest match table of a pair over a sample of its left items."""
    table = match_table(store, name)
    commit = _newest(table)
    settings = commit.properties
    left = _items(store, settings["left"], table, commit, LEFT_ITEMS)
    right = _items(store, settings["right"], table, commit, RIGHT_ITEMS)
    asked = left.where(_sample(len(left), sample, seed))
    pairs = table.read(commit)
    found = _by_left(pairs, asked)

    def audited(some: Items) -> Audit:
        scores = _scores(some, right)
        if settings["mode"] == "mutual":
            return _audit_mutual(some, left, right, scores, found, settings["threshold"])
        if settings["mode"] == "one_to_one":
            taken = pairs["right_id"]
            return _audit_one_to_one(some, right, taken, scores, found, settings["threshold"])
        k = 1 if settings["mode"] == "best" else settings["k"]
        return _audit_best(some, right, scores, found, settings["threshold"], k)

    # For mutual pairs there are scores of the other side with the left one too.
    return _together(audited(some) for some in _blocks(asked, max(len(left), len(right))))


def audit_graph(
    store: Store, name: str, *, sample: int, seed: int = 0, variant: str | None = None
) -> Audit:
    """Audit the newest similarity graph of a catalog over a sample of its items."""
    table = graph_table(store, name, variant)
    commit = _newest(table)
    nodes = _items(store, name, table, commit, LEFT_ITEMS)
    asked = nodes.where(_sample(len(nodes), sample, seed))
    edges = table.read(commit).rename({"src_id": "left_id", "dst_id": "right_id"})
    found = _by_left(edges, asked)
    bar = commit.properties["threshold"]
    threshold = LEAST if bar is None else bar

    def audited(some: Items) -> Audit:
        scores = _scores(some, nodes)
        scores[_positions(some, nodes)] = -np.inf  # no item is its own neighbor
        return _audit_best(some, nodes, scores, found, threshold, commit.properties["k"])

    return _together(audited(some) for some in _blocks(asked, len(nodes)))


def _together(parts: Iterable[Audit]) -> Audit:
    audits = list(parts)
    return Audit(
        sum(audit.sampled for audit in audits),
        sum(audit.missing for audit in audits),
        sum(audit.false for audit in audits),
        tuple(example for audit in audits for example in audit.examples)[:_EXAMPLES],
    )


def _newest(table: Table) -> Commit:
    commit = table.latest()
    if commit is None:
        raise StoreError(f"{table.name} has no version yet; materialize it first")
    return commit


def _items(store: Store, catalog: str, table: Table, commit: Commit, role: str) -> Items:
    file = commit.file_with_role(role)
    if file is None:
        raise StoreError(f"table {table.name} version {commit.version} lists no {role}")
    fingerprint = commit.properties[FINGERPRINT]
    return items.with_vectors(store, catalog, fingerprint, table.read_file(file))


def _sample(length: int, sample: int, seed: int) -> NDArray[np.bool_]:
    mask = np.zeros(length, dtype=bool)
    mask[np.random.default_rng(seed).permutation(length)[:sample]] = True
    return mask


def _blocks(asked: Items, width: int) -> Iterator[Items]:
    """The items, as many at a time as may be scored with `width` others."""
    step = max(1, _SCORES // max(1, width))
    for start in range(0, len(asked), step):
        yield Items(asked.keys[start : start + step], asked.vectors[start : start + step])


def _positions(asked: Items, nodes: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    columns = np.searchsorted(nodes.keys["id"].to_list(), asked.keys["id"].to_list())
    return np.arange(len(asked)), columns


def _scores(left: Items, right: Items) -> NDArray[np.float64]:
    scores = np.empty((len(left), len(right)))
    if not scores.size:
        return scores
    wide = left.vectors.astype(np.float64)
    # In pieces: the other side may be large, and float64 doubles it.
    for start in range(0, len(right), _PIECE):
        piece = right.vectors[start : start + _PIECE].astype(np.float64)
        scores[:, start : start + _PIECE] = wide @ piece.T
    return scores


def _by_left(pairs: pl.DataFrame, asked: Items) -> dict[str, set[str]]:
    own = pairs.join(asked.keys, left_on="left_id", right_on="id", how="semi")
    grouped: dict[str, set[str]] = {}
    for left_id, right_id in own.select("left_id", "right_id").iter_rows():
        grouped.setdefault(left_id, set()).add(right_id)
    return grouped


def _audit_best(
    asked: Items,
    right: Items,
    scores: NDArray[np.float64],
    found: dict[str, set[str]],
    threshold: float,
    k: int | None,
) -> Audit:
    """What is clearly better than the first that is left out must be there.

    What is clearly worse than the last that is kept must not; what is as good as either may,
    as far as there is room for it.
    """
    expected = []
    for row in scores:
        most = len(row) if k is None else k
        kept, left_out = threshold, threshold
        if k is not None and len(row) > k:
            ordered = np.partition(row, (-k - 1, -k))
            kept, left_out = max(threshold, ordered[-k]), max(threshold, ordered[-k - 1])
        least = min(most, int((row >= threshold + _TOLERANCE).sum()))
        expected.append(
            _Expected(row >= left_out + _TOLERANCE, row >= kept - _TOLERANCE, least, most)
        )
    return _judged(asked, right, expected, found)


def _audit_mutual(
    asked: Items,
    left: Items,
    right: Items,
    scores: NDArray[np.float64],
    found: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """A pair counts when neither member has a better partner on the other side."""
    committed = {other for item in asked.keys["id"] for other in found.get(item, ())}
    looked_at = right.keys["id"].is_in(list(committed)).to_numpy()
    if scores.size:
        looked_at[scores.argmax(axis=1)] = True
    partners = right.where(looked_at)
    first, best, second = _two_best(_scores(partners, left))
    expected = []
    for row, place in zip(*_positions(asked, left), strict=True):
        rivals = np.where(first == place, second, best)
        its_first, its_best, its_second = _two_best(scores[row : row + 1])
        others = np.where(np.arange(len(right)) == its_first, its_second, its_best)[looked_at]
        bar = np.maximum(np.maximum(rivals, others), threshold)
        own = scores[row][looked_at]
        # Of several partners that are equally good, other ties may leave none.
        expected.append(_Expected(own >= bar + _TOLERANCE, own >= bar - _TOLERANCE, 0, 1))
    return _judged(asked, partners, expected, found)


def _audit_one_to_one(
    asked: Items,
    right: Items,
    taken: pl.Series,
    scores: NDArray[np.float64],
    found: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """No partner that is still free would be better than the one an item has.

    That much follows from the greatest total; whether the total is the greatest cannot be
    told from a sample.
    """
    free = ~right.keys["id"].is_in(taken.implode()).to_numpy()
    columns = {item: column for column, item in enumerate(right.keys["id"].to_list())}
    expected = []
    for item, row in zip(asked.keys["id"].to_list(), scores, strict=True):
        partners = found.get(item, set()) & columns.keys()
        own = max((row[columns[other]] for other in partners), default=-np.inf)
        better = free & (row >= max(threshold, own, 0.0) + _TOLERANCE)
        expected.append(_Expected(better, row >= threshold - _TOLERANCE, 0, 1))
    return _judged(asked, right, expected, found)


def _two_best(
    scores: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Where the greatest score of each row is, it, and the greatest at any other place."""
    if not scores.shape[1]:
        nothing = np.full(len(scores), -np.inf)
        return np.full(len(scores), -1), nothing, nothing
    first = scores.argmax(axis=1)
    left = [row[:at].max(initial=-np.inf) for row, at in zip(scores, first, strict=True)]
    right = [row[at + 1 :].max(initial=-np.inf) for row, at in zip(scores, first, strict=True)]
    return first, scores[np.arange(len(scores)), first], np.maximum(left, right)


def _judged(
    asked: Items,
    right: Items,
    expected: list[_Expected],
    found: dict[str, set[str]],
) -> Audit:
    names = np.array(right.keys["id"].to_list(), dtype=object)
    missing, false = 0, 0
    examples: list[str] = []
    for item, of_item in zip(asked.keys["id"].to_list(), expected, strict=True):
        have = found.get(item, set())
        must, may = set(names[of_item.surely]), set(names[of_item.possibly])
        true = [*sorted(have & must), *sorted(have & may - must)]
        lacking = sorted(must - have)
        vacant = max(0, of_item.least - len(true) - len(lacking))
        lacking += sorted(may - must - have)[:vacant]
        wrong = sorted(have - may) + true[of_item.most :]
        missing += len(lacking)
        false += len(wrong)
        examples += [f"missing: {item} {other}" for other in lacking[:2]]
        examples += [f"false: {item} {other}" for other in wrong[:2]]
    return Audit(len(asked), missing, false, tuple(examples[:_EXAMPLES]))
