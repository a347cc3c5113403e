"""Checks that hold a result against its last version, and against what it was made of."""

from __future__ import annotations

import dagster as dg

from imgsim_assets.components.image_catalog.checks import CURRENT_INDEX, DRIFT
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import embedded_items, index_table
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.similarity.audit import Audit, drift
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_ITEM = ["id", "sha256"]


def check_drift(table: Table, newest: Commit, settings: CheckSettings) -> dg.AssetCheckResult:
    """The distance of the similarities from those of the version before; see `drift`.

    Another encoder, threshold, mode or k moves them on purpose: then there is nothing to tell.
    """
    before = _version_before(table, newest)
    moved, compared_with = 0.0, "nothing"
    if before is not None and before.properties != newest.properties:
        compared_with = "nothing: settings changed"
    elif before is not None:
        compared_with = f"version {before.version}"
        old, new = (table.read(commit)["similarity"] for commit in (before, newest))
        moved = drift(old, new)
    return dg.AssetCheckResult(
        check_name=DRIFT,
        passed=moved <= settings.max_drift,
        severity=dg.AssetCheckSeverity[settings.severity.upper()],
        metadata={
            "drift": round(moved, 4),
            "most": settings.max_drift,
            "compared_with": compared_with,
        },
    )


def _version_before(table: Table, newest: Commit) -> Commit | None:
    if newest.version == 1:
        return None
    try:
        return table.at(newest.version - 1)
    except StoreError:
        return None  # it was collected


def check_current_index(store: Store, name: str, settings: CheckSettings) -> dg.AssetCheckResult:
    """Items that the index lacks or should no longer hold."""
    _, items = embedded_items(store, name)
    table = index_table(store, name)
    newest = table.latest()
    entries = table.read(newest, columns=_ITEM) if newest is not None else items.clear()
    lacking = items.join(entries, on=_ITEM, how="anti").height
    outdated = entries.join(items, on=_ITEM, how="anti").height
    return dg.AssetCheckResult(
        check_name=CURRENT_INDEX,
        passed=not lacking and not outdated,
        severity=dg.AssetCheckSeverity[settings.severity.upper()],
        metadata={"lacking": lacking, "outdated": outdated},
    )


def brute_force_check(audit: Audit) -> dg.AssetCheckResult:
    """The result of an audit as the check agrees_with_brute_force."""
    return dg.AssetCheckResult(
        check_name="agrees_with_brute_force",
        passed=audit.passed,
        metadata={
            "sampled": audit.sampled,
            "missing": audit.missing,
            "false": audit.false,
            "examples": dg.MetadataValue.json(list(audit.examples)),
        },
    )
