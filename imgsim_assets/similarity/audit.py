"""Audits: committed results against a brute-force product over a seeded sample, and drift.

An audit shares no code with the stages: it reads the vectors from the embeddings, multiplies
them in float64, and compares the scores with the committed rows.
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
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS
from imgsim_assets.similarity.neighbor_lists import MIN_COSINE
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Two ways to sum a float64 product differ by less; a pair this near a cutoff may be on either
# side of it.
_TOLERANCE = 1e-6
# Right vectors that are converted to float64 at once.
_RIGHT_ROWS = 8192
_MAX_SCORES = 1 << 24
_MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Audit:
    """The outcome for a sample: sampled items, and pairs that are missing or false."""

    sampled: int
    missing: int
    false: int
    examples: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no pair is missing and none is false."""
        return not self.missing and not self.false


@dataclass(frozen=True)
class _Expected:
    """Masks (m,) of the right items that one item must and may be paired with, and how many."""

    required: NDArray[np.bool_]
    allowed: NDArray[np.bool_]
    min_pairs: int
    max_pairs: int


def audit_matches(store: Store, name: str, *, sample: int, seed: int = 0) -> Audit:
    """Compare the latest match table with brute force over a sample of its left items.

    Args:
        store: the store of both catalogs.
        name: the match table.
        sample: how many left items, at most.
        seed: of the sample.

    Raises:
        StoreError: when the table has no version.
    """
    table = match_table(store, name)
    commit = _latest(table)
    settings = commit.properties
    mode, threshold = settings["mode"], settings["threshold"]
    left = _items(store, settings["left"], table, commit, LEFT_ITEMS)
    right = _items(store, settings["right"], table, commit, RIGHT_ITEMS)
    sampled = left.where(_sample(len(left), sample, seed))
    rows = table.read(commit)
    pairs = _by_left(rows, sampled)

    def audit(batch: Items) -> Audit:
        scores = _scores(batch, right)
        if mode == "mutual":
            return _audit_mutual(batch, left, right, scores, pairs, threshold)
        if mode == "one_to_one":
            return _audit_one_to_one(batch, right, rows["right_id"], scores, pairs, threshold)
        k = 1 if mode == "best" else settings["k"]
        return _audit_top_k(batch, right, scores, pairs, threshold, k)

    # For mutual pairs right items are scored with all left ones too.
    return _combine(audit(batch) for batch in _batches(sampled, max(len(left), len(right))))


def audit_graph(
    store: Store, name: str, *, sample: int, seed: int = 0, variant: str | None = None
) -> Audit:
    """Compare the latest similarity graph with brute force over a sample of its items.

    Args:
        store: the store of the catalog.
        name: the catalog.
        sample: how many items, at most.
        seed: of the sample.
        variant: the graph of other settings than the declared ones.

    Raises:
        StoreError: when the graph has no version.
    """
    table = graph_table(store, name, variant)
    commit = _latest(table)
    nodes = _items(store, name, table, commit, LEFT_ITEMS)
    sampled = nodes.where(_sample(len(nodes), sample, seed))
    edges = table.read(commit).rename({"src_id": "left_id", "dst_id": "right_id"})
    pairs = _by_left(edges, sampled)
    declared = commit.properties["threshold"]
    threshold = MIN_COSINE if declared is None else declared

    def audit(batch: Items) -> Audit:
        scores = _scores(batch, nodes)
        scores[_positions(batch, nodes)] = -np.inf  # no item is its own neighbor
        return _audit_top_k(batch, nodes, scores, pairs, threshold, commit.properties["k"])

    return _combine(audit(batch) for batch in _batches(sampled, len(nodes)))


def drift(before: pl.Series, after: pl.Series) -> float:
    """The two-sample Kolmogorov-Smirnov distance of two sets of similarities.

    It is the largest difference of their cumulative distributions (Kolmogorov 1933, Smirnov
    1939).

    Args:
        before: similarities of one version.
        after: similarities of the next version.

    Returns:
        0 when they are the same, 1 when every value of one lies above every value of the other,
        or when only one is empty.
    """
    if before.is_empty() or after.is_empty():
        return float(before.is_empty() != after.is_empty())
    old, new = np.sort(before.to_numpy()), np.sort(after.to_numpy())
    values = np.concatenate([old, new])
    shares = [np.searchsorted(each, values, side="right") / len(each) for each in (old, new)]
    return float(np.abs(shares[0] - shares[1]).max())


def _combine(parts: Iterable[Audit]) -> Audit:
    audits = list(parts)
    return Audit(
        sum(audit.sampled for audit in audits),
        sum(audit.missing for audit in audits),
        sum(audit.false for audit in audits),
        tuple(example for audit in audits for example in audit.examples)[:_MAX_EXAMPLES],
    )


def _latest(table: Table) -> Commit:
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


def _batches(sampled: Items, width: int) -> Iterator[Items]:
    """The items, as many at a time as may be scored with `width` others."""
    step = max(1, _MAX_SCORES // max(1, width))
    for start in range(0, len(sampled), step):
        yield Items(sampled.keys[start : start + step], sampled.vectors[start : start + step])


def _positions(sampled: Items, nodes: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    columns = np.searchsorted(nodes.keys["id"].to_list(), sampled.keys["id"].to_list())
    return np.arange(len(sampled)), columns


def _scores(left: Items, right: Items) -> NDArray[np.float64]:
    scores = np.empty((len(left), len(right)))
    if not scores.size:
        return scores
    left_vectors = left.vectors.astype(np.float64)
    # In parts: there may be many right vectors, and float64 doubles them.
    for start in range(0, len(right), _RIGHT_ROWS):
        part = right.vectors[start : start + _RIGHT_ROWS].astype(np.float64)
        scores[:, start : start + _RIGHT_ROWS] = left_vectors @ part.T
    return scores


def _by_left(pairs: pl.DataFrame, sampled: Items) -> dict[str, set[str]]:
    of_sample = pairs.join(sampled.keys, left_on="left_id", right_on="id", how="semi")
    by_left: dict[str, set[str]] = {}
    for left_id, right_id in of_sample.select("left_id", "right_id").iter_rows():
        by_left.setdefault(left_id, set()).add(right_id)
    return by_left


def _audit_top_k(
    sampled: Items,
    right: Items,
    scores: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
    k: int | None,
) -> Audit:
    """Pairs clearly better than the (k+1)-th are required; those as good as the k-th allowed."""
    expected = []
    for row in scores:
        max_pairs = len(row) if k is None else k
        kth, next_best = threshold, threshold
        if k is not None and len(row) > k:
            ordered = np.partition(row, (-k - 1, -k))
            kth, next_best = max(threshold, ordered[-k]), max(threshold, ordered[-k - 1])
        min_pairs = min(max_pairs, int((row >= threshold + _TOLERANCE).sum()))
        required, allowed = row >= next_best + _TOLERANCE, row >= kth - _TOLERANCE
        expected.append(_Expected(required, allowed, min_pairs, max_pairs))
    return _compare(sampled, right, expected, pairs)


def _audit_mutual(
    sampled: Items,
    left: Items,
    right: Items,
    scores: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """A pair counts when neither member has a better partner on the other side."""
    committed = {other for item in sampled.keys["id"] for other in pairs.get(item, ())}
    relevant = right.keys["id"].is_in(list(committed)).to_numpy()
    if scores.size:
        relevant[scores.argmax(axis=1)] = True
    partners = right.where(relevant)
    first, best, second = _top_two(_scores(partners, left))
    expected = []
    for row, position in zip(*_positions(sampled, left), strict=True):
        best_other_left = np.where(first == position, second, best)
        row_first, row_best, row_second = _top_two(scores[row : row + 1])
        others_best = np.where(np.arange(len(right)) == row_first, row_second, row_best)
        best_other_right = others_best[relevant]
        cutoffs = np.maximum(np.maximum(best_other_left, best_other_right), threshold)
        row_scores = scores[row][relevant]
        # Of several equally good partners, ties elsewhere may leave none.
        required, allowed = (
            row_scores >= cutoffs + tolerance for tolerance in (_TOLERANCE, -_TOLERANCE)
        )
        expected.append(_Expected(required, allowed, 0, 1))
    return _compare(sampled, partners, expected, pairs)


def _audit_one_to_one(
    sampled: Items,
    right: Items,
    matched: pl.Series,
    scores: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """No right item that is still free is better than the partner of an item.

    This follows from the greatest total; a sample cannot show whether the total is the greatest.
    """
    free = ~right.keys["id"].is_in(matched.implode()).to_numpy()
    columns = {item: column for column, item in enumerate(right.keys["id"].to_list())}
    expected = []
    for item, row in zip(sampled.keys["id"].to_list(), scores, strict=True):
        partners = pairs.get(item, set()) & columns.keys()
        current = max((row[columns[other]] for other in partners), default=-np.inf)
        better = free & (row >= max(threshold, current, 0.0) + _TOLERANCE)
        expected.append(_Expected(better, row >= threshold - _TOLERANCE, 0, 1))
    return _compare(sampled, right, expected, pairs)


def _top_two(
    scores: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The column of the greatest score of each row, that score, and the greatest of the others."""
    if not scores.shape[1]:
        none = np.full(len(scores), -np.inf)
        return np.full(len(scores), -1), none, none
    first = scores.argmax(axis=1)
    before = [row[:at].max(initial=-np.inf) for row, at in zip(scores, first, strict=True)]
    behind = [row[at + 1 :].max(initial=-np.inf) for row, at in zip(scores, first, strict=True)]
    return first, scores[np.arange(len(scores)), first], np.maximum(before, behind)


def _compare(
    sampled: Items, right: Items, expected: list[_Expected], pairs: dict[str, set[str]]
) -> Audit:
    right_ids = np.array(right.keys["id"].to_list(), dtype=object)
    missing_count, false_count = 0, 0
    examples: list[str] = []
    for item, of_item in zip(sampled.keys["id"].to_list(), expected, strict=True):
        committed = pairs.get(item, set())
        required, allowed = set(right_ids[of_item.required]), set(right_ids[of_item.allowed])
        true = [*sorted(committed & required), *sorted(committed & allowed - required)]
        missing = sorted(required - committed)
        shortfall = max(0, of_item.min_pairs - len(true) - len(missing))
        missing += sorted(allowed - required - committed)[:shortfall]
        false = sorted(committed - allowed) + true[of_item.max_pairs :]
        missing_count += len(missing)
        false_count += len(false)
        examples += [f"missing: {item} {other}" for other in missing[:2]]
        examples += [f"false: {item} {other}" for other in false[:2]]
    return Audit(len(sampled), missing_count, false_count, tuple(examples[:_MAX_EXAMPLES]))
