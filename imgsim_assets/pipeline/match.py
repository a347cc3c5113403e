"""The pipeline of a match table."""

from __future__ import annotations

import polars as pl

from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity import items
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.selection import compared_within
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


class MatchPipeline:
    """The match table of two catalogs.

    Args:
        store: where tables and images are.
        settings: the match table as declared.
        variant: a suffix of the table's name, for a result beside the declared one.
    """

    def __init__(
        self, store: Store, settings: MatchMatrixSettings, *, variant: str | None = None
    ) -> None:
        self.store = store
        self.settings = settings
        self.table_name = f"{settings.name}.{variant}" if variant else settings.name

    @property
    def table(self) -> Table:
        """`matches/<name>`."""
        return match_table(self.store, self.table_name)

    def run(self) -> MatchReport:
        """Update the match table to match the left embeddings and the right index.

        Raises:
            StoreError: when a catalog has no embeddings or no index, or when different encoders
                made their vectors.
        """
        settings = self.settings
        return MatchStage(
            self.store, self.table_name, settings, left=settings.left, right=settings.right
        ).run()

    def compared(self) -> tuple[Items, Items]:
        """The left and the right images that are compared, as they are now."""
        settings = self.settings
        _, left = items.from_embeddings(self.store, settings.left)
        _, right = items.from_index(self.store, settings.right)
        return (
            compared_within(self.store, settings.left, left, settings),
            compared_within(self.store, settings.right, right, settings),
        )

    def rows(self, report: MatchReport) -> pl.DataFrame:
        """The matches of the version that `report` is about."""
        return self.table.read(self.table.at(report.version))
