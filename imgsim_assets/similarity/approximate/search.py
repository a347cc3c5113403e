"""How a result's neighbor lists are searched: exactly, or in inverted lists kept in its commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from imgsim_assets.compute.tasks import tell
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.approximate.assign_rows import assign_rows
from imgsim_assets.similarity.approximate.assigned import AssignedSides
from imgsim_assets.similarity.approximate.lists import InvertedLists
from imgsim_assets.similarity.approximate.probes import enough_probes, list_ranks
from imgsim_assets.similarity.approximate.recall import Recall, RecallMeter
from imgsim_assets.similarity.approximate.sample import PairsOf, pairs_to_choose_by, recall_meter
from imgsim_assets.similarity.approximate.training import trained_lists
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD, MIN_RECALL
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.table import Table

# Files of the centroids: of the lists that left rows probe, and of those that right rows do.
CENTROIDS = "centroids"
RIGHT_CENTROIDS = "right_centroids"
_COLUMN = "centroid"
# Lists are trained again when a side has this many times more or fewer rows than they were
# trained for.
_MAX_GROWTH = 2


@dataclass(frozen=True)
class ListSearch:
    """How the neighbor lists of a result are searched.

    Attributes:
        cached: neighbor lists that can be updated; None where all are computed.
        assigned: the inverted lists of both sides; None for an exact search.
        meter: finds the pairs of sampled items in the lists; None for an exact search.
    """

    cached: CachedNeighborLists | None
    assigned: AssignedSides | None = None
    meter: RecallMeter | None = None
    _centroids: DataFile | None = None
    _files: Sequence[DataFile] = ()

    @classmethod
    def of(
        cls,
        result: MaterializedResult,
        left: Items,
        right: Items,
        spec: JoinSpec,
        cached: CachedNeighborLists | None,
        role: str = CENTROIDS,
    ) -> ListSearch:
        """The search by the method of a result.

        Inverted lists are kept for updates, and which of them each row is in and probes. They are
        trained again, and all neighbor lists computed, when a side has twice or half as many rows
        as they were trained for, or when an update has missed the minimum recall.

        Args:
            result: the result with its method, whose latest commit may have lists.
            left: the rows that get a list each.
            right: the rows that are searched.
            spec: which pairs are found.
            cached: neighbor lists of the same spec, of earlier rows.
            role: of the file of the centroids.
        """
        has_pairs = len(left) and len(right)
        if result.properties[METHOD] != APPROXIMATE or not has_pairs:
            return cls(cached)
        # Graphs and groups have neither.
        one_catalog = result.properties.get("left") == result.properties.get("right")
        pairs = PairsOf(left, right, spec, one_catalog)
        kept = _kept(result, role) if cached is not None else None
        if kept is None or kept.is_outgrown(len(left), len(right)):
            lists, cached = train_for(pairs, result.properties[MIN_RECALL]), None
            file = _written(result.table, lists, role, len(left), len(right))
        else:
            lists, file = kept.lists, kept.file.with_metadata(is_new=False)
        before = (None, None) if cached is None else (cached.left, cached.right)
        of_left = assign_rows(result, left, lists, f"{role}_left", before[0])
        assigned = [of_left]
        if left is not right:
            of_right = InvertedLists(lists.centroids, nprobe=0)
            assigned.append(assign_rows(result, right, of_right, f"{role}_right", before[1]))
        meter, files = recall_meter(pairs, result, role, cached)
        files += [file for each in assigned for file in each.lists.files]
        sides = AssignedSides(lists, of_left.lists, assigned[-1].own)
        return cls(cached, sides, meter, file, files)

    def files(self, found: Sequence[pl.DataFrame]) -> list[DataFile]:
        """The files that the next run needs, the centroids with the recall; none if exact.

        Args:
            found: what the meter found in each block of the lists.
        """
        if self.meter is None or self._centroids is None:
            return []
        recall = asdict(self.meter.recall(found))
        return [self._centroids.with_metadata(recall=recall), *self._files]


def recall_of(commit: Commit) -> Recall | None:
    """The recall that was measured of a result, in all its lists; None for an exact one."""
    if commit.properties.get(METHOD) != APPROXIMATE:
        return None
    measured = [Recall(**file.metadata["recall"]) for file in _centroids(commit)]
    if not measured:  # a side was empty
        return Recall(0, 0, 0)
    return Recall(*(sum(figures) for figures in zip(*map(astuple, measured), strict=True)))


def reused_if_found(result: MaterializedResult) -> MaterializedResult:
    """The result; one to compute again if its last update has missed the minimum recall."""
    latest = result.latest
    recall = recall_of(latest) if latest is not None else None
    if latest is None or recall is None or recall.reaches(result.properties[MIN_RECALL]):
        return result
    # Lists that were trained for the same rows would be trained to be the same.
    if all(file.metadata["is_new"] for file in _centroids(latest)):
        return result
    return replace(result, current=None, reusable=None)


def _centroids(commit: Commit) -> list[DataFile]:
    return [file for file in commit.files if file.role in (CENTROIDS, RIGHT_CENTROIDS)]


@dataclass(frozen=True)
class _Kept:
    """The inverted lists of a commit, and the numbers of rows that they were trained for."""

    lists: InvertedLists
    left_rows: int
    right_rows: int
    file: DataFile

    def is_outgrown(self, left_rows: int, right_rows: int) -> bool:
        pairs = ((self.left_rows, left_rows), (self.right_rows, right_rows))
        return any(
            now > _MAX_GROWTH * trained or now * _MAX_GROWTH < trained for trained, now in pairs
        )


def _kept(result: MaterializedResult, role: str) -> _Kept | None:
    """The inverted lists of the commit whose lists can be reused; None if they are damaged."""
    if result.reusable is None or (file := result.reusable.file_with_role(role)) is None:
        return None
    try:
        centroids = result.table.read_file(file)[_COLUMN].to_numpy()
    except CorruptFileError as error:
        tell(f"the inverted lists are trained again, and the result is computed in full: {error}")
        return None
    metadata: dict[str, Any] = dict(file.metadata)
    lists = InvertedLists(np.ascontiguousarray(centroids, np.float32), metadata["nprobe"])
    return _Kept(lists, metadata["left_rows"], metadata["right_rows"], file)


def _written(
    table: Table, lists: InvertedLists, role: str, left_rows: int, right_rows: int
) -> DataFile:
    dtype = pl.Array(pl.Float32, lists.centroids.shape[1])
    frame = pl.DataFrame({_COLUMN: lists.centroids}, schema={_COLUMN: dtype})
    return table.write_rows(frame, role=role).with_metadata(
        nprobe=lists.nprobe, left_rows=left_rows, right_rows=right_rows, is_new=True
    )


def train_for(pairs: PairsOf, min_recall: float) -> InvertedLists:
    """New lists, with as many probes as the minimum recall needs."""
    left, right = pairs.left.blocks, pairs.right.blocks
    lists = trained_lists(left, right)
    if len(lists) == 1:
        return lists
    exact = pairs_to_choose_by(pairs)
    return lists.with_nprobe(enough_probes(list_ranks(lists, left, right, *exact), min_recall))
