"""The pipeline of a match table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.similarity import items
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.selection import select_images
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


class MatchPipeline:
    """The match table of two catalogs.

    Args:
        store: where tables and images are.
        settings: the match table as declared.
        variant: a suffix of the table's name, for a result beside the declared one.
        root: the project's root, from which the paths of an ignore list start.
        encoders: of the catalogs, as declared, for orientations; by default as recorded.
        log: receives progress messages.
    """

    def __init__(
        self,
        store: Store,
        settings: MatchMatrixSettings,
        *,
        variant: str | None = None,
        root: Path = Path(),
        encoders: Mapping[str, EncoderSettings] | None = None,
        log: Log = silent,
    ) -> None:
        self.store = store
        self.settings = settings
        self.root = root
        self.encoders = encoders
        self.log = log
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
        stage = MatchStage(
            self.store,
            self.table_name,
            settings,
            left=settings.left,
            right=settings.right,
            root=self.root,
            encoders=self.encoders,
            log=self.log,
        )
        with use_compute(settings.compute, self.log) as device:
            return replace(stage.run(), device=str(device))

    def compared(self) -> tuple[Items, Items]:
        """The left and the right images that are compared, as they are now.

        With orientations each left image has a row for each of them.
        """
        settings = self.settings
        embeddings, left = items.from_embeddings(self.store, settings.left)
        index, right = items.from_index(self.store, settings.right)
        catalogs = [
            CatalogItems(settings.left, embeddings, left),
            CatalogItems(settings.right, index, right),
        ]
        left, right = select_images(self.store, settings, self.root, catalogs).items
        if settings.orientations:
            turned = TurnedCatalogs(self.store, self.encoders, log=self.log)
            left = turned.turned(settings.left, embeddings, left)
        return left, right

    def rows(self, report: MatchReport) -> pl.DataFrame:
        """The matches of the version that `report` is about."""
        return self.table.read(self.table.at(report.version))
