"""Audits: committed results against a brute-force product over a seeded sample, and drift.

An audit shares no code with the stages: it reads the vectors from the embeddings, multiplies
them in float64, and compares the similarities of items with the committed rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.errors import StoreError
from imgsim_assets.reviews.table import DIFFERENT, MATCH
from imgsim_assets.similarity.audit_pairs import wrong_pairs, wrong_selection
from imgsim_assets.similarity.audit_scores import TOLERANCE, ScoredItems, recorded_items, scores
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE_RULE
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.match_rows import DECISIONS
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_MAX_EXAMPLES = 5
# The score of a pair that a person decided to be a match.
_DECIDED_MATCH = 2.0


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
    left, right = (
        recorded_items(store, settings[side], table, commit, role)
        for side, role in (("left", LEFT_ITEMS), ("right", RIGHT_ITEMS))
    )
    sampled = left.sample(sample, seed)
    rows = table.read(commit)
    pairs = _by_left(rows, sampled)
    verdicts = _verdicts(table, commit)
    undecided = rows.filter(pl.col("verdict").ne_missing(MATCH)) if verdicts else rows

    def audit(batch: ScoredItems) -> Audit:
        cosines = scores(batch, right, settings)
        of_batch = _decided(cosines.copy() if verdicts else cosines, batch, right, verdicts)
        if settings.get(EVIDENCE_RULE) is not None:
            return _audit_evident(batch, right, of_batch, pairs, threshold)
        if settings.get(METHOD) == APPROXIMATE:
            found = _audit_evident(batch, right, of_batch, pairs, threshold)
            return _combine([found, _wrong_approximate(undecided, batch, right, cosines, settings)])
        if mode == "mutual":
            result = _audit_mutual(batch, left, right, of_batch, pairs, settings, verdicts)
        elif mode == "one_to_one":
            matched = rows["right_id"]
            result = _audit_one_to_one(batch, right, matched, of_batch, pairs, threshold)
        else:
            k = 1 if mode == "best" else settings["k"]
            result = _audit_top_k(batch, right, of_batch, pairs, threshold, k)
        if result.false:
            return result
        return _combine([result, _wrong(wrong_pairs(undecided, batch, right, cosines, threshold))])

    # For mutual pairs right items are scored with all left ones too.
    width = max(len(left.vectors), len(right.vectors))
    of_batches = [audit(batch) for batch in sampled.batches(width)]
    selections = (
        _wrong(wrong_selection(table, commit, role, settings)) for role in (LEFT_ITEMS, RIGHT_ITEMS)
    )
    return _combine([*of_batches, *selections])


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
    sources, nodes = (
        recorded_items(store, name, table, commit, role) for role in (LEFT_ITEMS, RIGHT_ITEMS)
    )
    sampled = sources.sample(sample, seed)
    edges = table.read(commit).rename(
        lambda name: name.replace("src_", "left_").replace("dst_", "right_")
    )
    pairs = _by_left(edges, sampled)
    declared = commit.properties["threshold"]
    threshold = MIN_COSINE if declared is None else declared

    def audit(batch: ScoredItems) -> Audit:
        of_batch = scores(batch, nodes, commit.properties)
        # No item is its own neighbor.
        of_batch[np.arange(len(batch)), batch.positions(nodes)] = -np.inf
        if commit.properties.get(EVIDENCE_RULE) is not None:
            return _audit_evident(batch, nodes, of_batch, pairs, threshold)
        if commit.properties.get(METHOD) == APPROXIMATE:
            found = _audit_evident(batch, nodes, of_batch, pairs, threshold)
            wrong = _wrong_approximate(edges, batch, nodes, of_batch, commit.properties)
            return _combine([found, wrong])
        result = _audit_top_k(batch, nodes, of_batch, pairs, threshold, commit.properties["k"])
        if result.false:
            return result
        return _combine([result, _wrong(wrong_pairs(edges, batch, nodes, of_batch, threshold))])

    batches = sampled.batches(len(nodes.vectors))
    selection = _wrong(wrong_selection(table, commit, LEFT_ITEMS, commit.properties))
    return _combine([*map(audit, batches), selection])


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


def _wrong(examples: Sequence[str]) -> Audit:
    """Pairs and images that are wrong in another way than being missing or too many."""
    return Audit(0, 0, len(examples), tuple(examples[:_MAX_EXAMPLES]))


def _wrong_approximate(
    rows: pl.DataFrame,
    sampled: ScoredItems,
    right: ScoredItems,
    of_sample: NDArray[np.float64],
    settings: Mapping[str, Any],
) -> Audit:
    """The pairs of an approximate result whose similarity is not that of their images.

    Which pairs it misses is for its recall to tell.
    """
    if settings["compare"] == "mean_best":
        return _wrong([])
    return _wrong(wrong_pairs(rows, sampled, right, of_sample, MIN_COSINE, may_miss=True))


def _verdicts(table: Table, commit: Commit) -> dict[tuple[str, str], float]:
    """The scores of decided pairs: a match is above every cosine, different ones are no pair."""
    file = commit.file_with_role(DECISIONS)
    if file is None:
        return {}
    rows = table.read_file(file).select("left_id", "right_id", "verdict").iter_rows()
    score = {MATCH: _DECIDED_MATCH, DIFFERENT: -np.inf}
    return {(left, right): score[verdict] for left, right, verdict in rows if verdict in score}


def _decided(
    of_items: NDArray[np.float64],
    left: ScoredItems,
    right: ScoredItems,
    verdicts: Mapping[tuple[str, str], float],
) -> NDArray[np.float64]:
    """The scores (n, m) with those of decided pairs."""
    rows = {item: row for row, item in enumerate(left.ids)} if verdicts else {}
    columns = {item: column for column, item in enumerate(right.ids)} if verdicts else {}
    for (a, b), score in verdicts.items():
        if a in rows and b in columns:
            of_items[rows[a], columns[b]] = score
    return of_items


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


def _by_left(pairs: pl.DataFrame, sampled: ScoredItems) -> dict[str, set[str]]:
    of_sample = pairs.join(sampled.keys, left_on="left_id", right_on="id", how="semi")
    by_left: dict[str, set[str]] = {}
    for left_id, right_id in of_sample.select("left_id", "right_id").iter_rows():
        by_left.setdefault(left_id, set()).add(right_id)
    return by_left


def _audit_top_k(
    sampled: ScoredItems,
    right: ScoredItems,
    of_sample: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
    k: int | None,
) -> Audit:
    """Pairs clearly better than the (k+1)-th are required; those as good as the k-th allowed."""
    expected = []
    for row in of_sample:
        decided = int((row >= _DECIDED_MATCH).sum())
        max_pairs = len(row) if k is None else max(k, decided)
        kth, next_best = threshold, threshold
        if k is not None and len(row) > max_pairs:
            ordered = np.partition(row, (-max_pairs - 1, -max_pairs))
            kth, next_best = (
                max(threshold, ordered[-max_pairs]),
                max(threshold, ordered[-max_pairs - 1]),
            )
        min_pairs = min(max_pairs, int((row >= threshold + TOLERANCE).sum()))
        required, allowed = row >= next_best + TOLERANCE, row >= kth - TOLERANCE
        expected.append(_Expected(required, allowed, min_pairs, max_pairs))
    return _compare(sampled, right, expected, pairs)


def _audit_evident(
    sampled: ScoredItems,
    right: ScoredItems,
    of_sample: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """With evidence or in lists, similarities require no pair, and allow those of candidates."""
    none = np.zeros(len(right), dtype=bool)
    expected = [_Expected(none, row >= threshold - TOLERANCE, 0, len(row)) for row in of_sample]
    return _compare(sampled, right, expected, pairs)


def _audit_mutual(
    sampled: ScoredItems,
    left: ScoredItems,
    right: ScoredItems,
    of_sample: NDArray[np.float64],
    pairs: dict[str, set[str]],
    settings: Mapping[str, Any],
    verdicts: Mapping[tuple[str, str], float],
) -> Audit:
    """A pair counts when neither member has a better partner on the other side."""
    committed = {other for item in sampled.ids for other in pairs.get(item, ())}
    relevant = np.array([item in committed for item in right.ids], dtype=bool)
    if of_sample.size:
        relevant[of_sample.argmax(axis=1)] = True
    partners = right.where(relevant)
    of_left = _decided(scores(left, partners, settings), left, partners, verdicts)
    first, best, second = _top_two(of_left.T)
    expected = []
    for row, position in enumerate(sampled.positions(left)):
        best_other_left = np.where(first == position, second, best)
        row_first, row_best, row_second = _top_two(of_sample[row : row + 1])
        others_best = np.where(np.arange(len(right)) == row_first, row_second, row_best)
        best_other_right = others_best[relevant]
        cutoffs = np.maximum(np.maximum(best_other_left, best_other_right), settings["threshold"])
        row_scores = of_sample[row][relevant]
        max_pairs = max(1, int((row_scores >= _DECIDED_MATCH).sum()))
        # Of several equally good partners, ties elsewhere may leave none.
        required, allowed = (
            row_scores >= cutoffs + tolerance for tolerance in (TOLERANCE, -TOLERANCE)
        )
        expected.append(_Expected(required, allowed, 0, max_pairs))
    return _compare(sampled, partners, expected, pairs)


def _audit_one_to_one(
    sampled: ScoredItems,
    right: ScoredItems,
    matched: pl.Series,
    of_sample: NDArray[np.float64],
    pairs: dict[str, set[str]],
    threshold: float,
) -> Audit:
    """No right item that is still free is better than the partner of an item.

    This follows from the greatest total; a sample cannot show whether the total is the greatest.
    """
    taken = set(matched.to_list())
    free = np.array([item not in taken for item in right.ids], dtype=bool)
    columns = {item: column for column, item in enumerate(right.ids)}
    expected = []
    for item, row in zip(sampled.ids, of_sample, strict=True):
        partners = pairs.get(item, set()) & columns.keys()
        current = max((row[columns[other]] for other in partners), default=-np.inf)
        better = free & (row >= max(threshold, current, 0.0) + TOLERANCE)
        max_pairs = max(1, int((row >= _DECIDED_MATCH).sum()))
        expected.append(_Expected(better, row >= threshold - TOLERANCE, 0, max_pairs))
    return _compare(sampled, right, expected, pairs)


def _top_two(
    matrix: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The column of the greatest score of each row, that score, and the greatest of the others."""
    if not matrix.shape[1]:
        none = np.full(len(matrix), -np.inf)
        return np.full(len(matrix), -1), none, none
    first = matrix.argmax(axis=1)
    before = [row[:at].max(initial=-np.inf) for row, at in zip(matrix, first, strict=True)]
    behind = [row[at + 1 :].max(initial=-np.inf) for row, at in zip(matrix, first, strict=True)]
    return first, matrix[np.arange(len(matrix)), first], np.maximum(before, behind)


def _compare(
    sampled: ScoredItems,
    right: ScoredItems,
    expected: list[_Expected],
    pairs: dict[str, set[str]],
) -> Audit:
    right_ids = np.array(right.ids, dtype=object)
    missing_count, false_count = 0, 0
    examples: list[str] = []
    for item, of_item in zip(sampled.ids, expected, strict=True):
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
