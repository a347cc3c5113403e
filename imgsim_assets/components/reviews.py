"""The assets `reviews/<name>`: people's decisions about a result, observed by their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import AssetSettings, asset_kwargs
from imgsim_assets.components.observed_input import Observation, ObservedInput, warn_if_missing
from imgsim_assets.errors import in_home
from imgsim_assets.text import counted

if TYPE_CHECKING:
    from imgsim_assets.pipeline.reviews import ImportReport
    from imgsim_assets.storage.store import Store

REVIEWS = "reviews"
_INTERVAL_S = 30


@dataclass(frozen=True)
class DeclaredReviews:
    """The file of decisions that a result declares.

    Attributes:
        name: of the decisions: "products__suppliers", or "groups/photos".
        catalogs: left and right of a match table, all catalogs of groups.
        file: a .csv, .tsv or .parquet file, from the project's root.
        root: the project's root.
    """

    name: str
    catalogs: Sequence[str]
    file: str
    root: Path

    @property
    def path(self) -> tuple[str, ...]:
        """The parts of the key of the asset, before a translation."""
        return (REVIEWS, *self.name.split("/"))

    @property
    def _path(self) -> Path:
        return self.root / in_home(self.file)

    def observed(self, key: dg.AssetKey, group: str, settings: AssetSettings) -> ObservedInput:
        """The decisions as an external asset; each observation imports the file."""
        warn_if_missing(self._path, f"reviews of {self.name}")
        spec = dg.AssetSpec(
            **asset_kwargs(key, group, settings, {"parquet"}) | {"automation_condition": None},
            description=f"People's decisions about pairs, from `{self.file}`, `imgsim review` and "
            "the review page. Observed, never materialized.",
            metadata={"path": self.file},
        )

        def look(open_store: Callable[[], Store]) -> Observation:
            return self._look(open_store())

        return ObservedInput(spec, look, "no decision is new", _INTERVAL_S)

    def import_file(self, store: Store, log: dg.DagsterLogManager) -> None:
        """Import the file before a run of the result, and warn of items that are not there.

        Raises:
            SourceError: when the file is missing, or one of its rows is not a decision.
        """
        report = self._import(store)
        if report is not None and report.unknown:
            log.warning(
                f"{self.file}: {counted(report.unknown, 'decision')} about items that are not "
                f"there, or have no image: {', '.join(report.first_unknown)}"
            )

    def _import(self, store: Store) -> ImportReport | None:
        """None before the catalogs have images."""
        from imgsim_assets.encoders.table import embeddings_table
        from imgsim_assets.pipeline.reviewed import Reviewed
        from imgsim_assets.pipeline.reviews import import_reviews

        if not all(embeddings_table(store, name).latest() for name in self.catalogs):
            return None
        reviewed = Reviewed(self.name, tuple(self.catalogs))
        return import_reviews(store, reviewed, self._path, now=datetime.now(UTC))

    def _look(self, store: Store) -> Observation:
        report = self._import(store)
        commit = store.table(f"{REVIEWS}/{self.name}").latest()
        metadata: dict[str, Any] = {"dagster/row_count": commit.rows if commit is not None else 0}
        if report is not None:
            metadata |= {"file_rows": report.rows, "unknown_items": report.unknown}
            if report.first_unknown:
                metadata["first_unknown_items"] = ", ".join(report.first_unknown)
        return Observation(f"version {commit.version}" if commit is not None else "none", metadata)


def group_reviews(name: str, catalogs: Sequence[str], file: str, root: Path) -> DeclaredReviews:
    """The declared file of decisions about duplicate groups: of a catalog's own, or by name."""
    return DeclaredReviews(f"groups/{name}", catalogs, file, root)
