"""The export of a materialized table, beside the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.storage.settings import ExportSettings

if TYPE_CHECKING:
    from imgsim_assets.storage.store import Store


def export_table(
    store: Store,
    name: str,
    version: int,
    settings: ExportSettings | None,
    root: Path,
    results: Sequence[dg.AssetCheckResult] = (),
) -> dict[str, Any]:
    """Export a version of a table as declared, unless a check of it failed.

    Returns:
        The metadata about the export.
    """
    failed = any(
        not each.passed and each.severity == dg.AssetCheckSeverity.ERROR for each in results
    )
    if settings is None or failed:
        return {}
    from imgsim_assets.storage.delta import export_delta

    export = export_delta(store, name, settings.absolute(root), version)
    return {
        "delta_uri": export.url,
        "delta_version": export.delta_version,
        "delta_inserted": export.added,
        "delta_updated": export.changed,
        "delta_deleted": export.removed,
    }
