"""The rows of a match table: written block by block of left ids, and summed up from the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.similarity.decided import DecidedPairs
from imgsim_assets.similarity.evidence.accepted_pairs import with_evidence
from imgsim_assets.similarity.items import ORIENTATION
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.neighbor_lists import with_rank
from imgsim_assets.similarity.orientations import with_names
from imgsim_assets.similarity.population import CHANGED_BY_DECISIONS, changes_by_decisions
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.id_blocks import ALL_IDS, IdBlock
from imgsim_assets.storage.table import Table

SCHEMA = {
    "left_id": pl.String,
    "right_id": pl.String,
    "similarity": pl.Float64,
    "rank": pl.Int32,
    "left_image": pl.Int32,
    "right_image": pl.Int32,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "verdict": pl.String,
}
# The file of the verdicts, with those that were reopened: left_id, right_id and verdict.
DECISIONS = "decisions"
# Columns that do not say which images match.
_MEASURED = ("similarity", "rank", "verdict")


class WrittenMatches(NamedTuple):
    """The file of a block of matches, and the pairs that decisions changed, if there are any."""

    file: DataFile
    changes: pl.DataFrame | None


@dataclass(frozen=True)
class MatchWriter:
    """Writes matches, as pairs of items, with people's verdicts and ranks.

    Attributes:
        result: the match table.
        decisions: what people decided.
        decided: the same as pairs.
        evidence: of pairs of images; None where none is computed.
    """

    result: MaterializedResult
    decisions: Decisions
    decided: DecidedPairs
    evidence: pl.DataFrame | None = None

    def write(
        self, pairs: pl.DataFrame, before: pl.DataFrame | None, block: IdBlock = ALL_IDS
    ) -> WrittenMatches:
        """Write the matches of a block.

        Args:
            pairs: the pairs of items that match.
            before: those that match without decisions; None where there are no decisions.
            block: the left ids of which all matches are among the pairs.
        """
        decided = pairs.join(
            self.decisions.verdicts, on=["left_id", "right_id"], how="left", maintain_order="left"
        )
        columns = [*SCHEMA, *([ORIENTATION] if ORIENTATION in pairs.columns else [])]
        rows = with_names(with_rank(decided).select(columns))
        if self.evidence is not None:
            rows = with_evidence(rows, self.evidence)
        changes = changes_by_decisions(before, pairs) if before is not None else None
        return WrittenMatches(self.result.write_block(rows, block=block), changes)

    def files(self, written: list[WrittenMatches]) -> list[DataFile]:
        """The files of blocks of matches, and those of the verdicts and what they changed."""
        table = self.result.table
        files = [each.file for each in written]
        if self.decisions.verdicts.height:
            files.append(table.write_rows(self.decisions.verdicts, role=DECISIONS))
        changes = [each.changes for each in written if each.changes is not None]
        if changes:
            files.append(table.write_rows(pl.concat(changes), role=CHANGED_BY_DECISIONS))
        return files


class MatchSummary(NamedTuple):
    """What a report says of the rows of a version.

    Attributes:
        left_matched: how many left items have a match.
        right_matched: how many right items have one.
        digest: of which images match.
    """

    left_matched: int
    right_matched: int
    digest: str

    @classmethod
    def of(cls, table: Table, commit: Commit, context: str) -> MatchSummary:
        """Read the rows of a version, one file at a time; `context` is hashed before them."""
        digest: RowsDigest | None = None
        left = 0
        right = pl.Series("right_id", dtype=pl.String)
        for rows in _rows(table, commit):
            identity = rows.drop(_MEASURED).cast(pl.String).fill_null("")
            digest = digest or RowsDigest(identity.width, context)
            digest.update(identity)
            left += rows["left_id"].n_unique()
            right = pl.concat([right, rows["right_id"].unique()]).unique()
        return cls(left, len(right), digest.hexdigest() if digest is not None else "")


def _rows(table: Table, commit: Commit) -> Iterator[pl.DataFrame]:
    for file in commit.files_with_role():
        yield table.read_file(file)
