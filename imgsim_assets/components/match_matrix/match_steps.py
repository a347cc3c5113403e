"""What a run does for a match table: bring it up to both catalogs, describe, check."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.charts import (
    match_sheet,
    similarity_heat_map,
    similarity_histogram,
)
from imgsim_assets.components.image_catalog.version_checks import (
    brute_force_check,
    check_current_index,
    check_drift,
)
from imgsim_assets.components.lineage import column_lineage, of_matches
from imgsim_assets.components.metadata import jpeg, preview, svg, table_metadata
from imgsim_assets.components.project import Project
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity import items
from imgsim_assets.similarity.audit import audit_matches
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store

# Up to so many pairs, all their cosines are shown.
_MOST_IN_HEAT_MAP = 400


def match_items(
    context: dg.AssetExecutionContext,
    project: Project,
    settings: MatchMatrixSettings,
    wanted: MatchSettings,
) -> dg.MaterializeResult:
    """Bring the match table up to both catalogs, and hold it against a plain product."""
    left = dg.AssetKey([settings.left, "embeddings"])
    right = dg.AssetKey([settings.right, "index"])
    store = project.store(context.run.run_id)
    report = MatchStage(
        store, settings.name, wanted, left=settings.left, right=settings.right
    ).run()
    table = match_table(store, settings.name)
    rows = table.read(table.at(report.version))
    audit = audit_matches(store, settings.name, sample=settings.checks.sample)
    return dg.MaterializeResult(
        metadata=_describe(store, settings, report, rows) | column_lineage(of_matches(left, right)),
        data_version=dg.DataVersion(report.data_version),
        check_results=[
            _above_threshold(rows, report.threshold),
            brute_force_check(audit),
            check_drift(table, table.at(report.version), settings.checks),
            check_current_index(store, settings.right, settings.checks),
        ],
    )


def _describe(
    store: Store, settings: MatchMatrixSettings, report: MatchReport, rows: pl.DataFrame
) -> dict[str, Any]:
    described: dict[str, Any] = {
        **table_metadata(
            store,
            f"matches/{settings.name}",
            report.version,
            report.matches,
            changed=report.changed,
        ),
        "threshold": report.threshold,
        "left_items": report.left_items,
        "right_items": report.right_items,
        "left_matched": report.left_matched,
        "incremental": report.incremental,
        "seconds": round(report.seconds, 3),
        "encoder_fingerprint": report.fingerprint,
    }
    if rows.height:
        described["contact_sheet"] = jpeg(
            match_sheet(store, rows), "the most similar pairs, then those nearest the threshold"
        )
        described["similarity_histogram"] = svg(
            similarity_histogram(rows["similarity"], report.threshold), "similarity of the matches"
        )
    if 0 < report.left_items * report.right_items <= _MOST_IN_HEAT_MAP:
        _, left = items.from_embeddings(store, settings.left)
        _, right = items.from_index(store, settings.right)
        described["heat_map"] = svg(
            similarity_heat_map(left, right, report.threshold), "similarity of every pair"
        )
    described["preview"] = preview(rows.select("left_id", "right_id", "similarity", "rank"))
    return described


def _above_threshold(rows: pl.DataFrame, threshold: float) -> dg.AssetCheckResult:
    below = rows.filter(~(pl.col("similarity") >= threshold)).height
    return dg.AssetCheckResult(
        check_name="at_or_above_threshold",
        passed=below == 0,
        metadata={"matches": rows.height, "below": below, "threshold": threshold},
    )
