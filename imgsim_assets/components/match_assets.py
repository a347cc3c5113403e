"""The asset `matches/<name>` of a pair of catalogues."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.automation import on_new_data, tagged
from imgsim_assets.components.blueprint import code_version
from imgsim_assets.components.catalogue_settings import MatchMatrixSettings
from imgsim_assets.components.index_assets import brute_force_check
from imgsim_assets.components.lineage import column_lineage, of_matches
from imgsim_assets.components.metadata import jpeg, preview, svg, table_metadata, table_schema
from imgsim_assets.components.pictures import (
    match_sheet,
    similarity_heat_map,
    similarity_histogram,
)
from imgsim_assets.components.project import Project
from imgsim_assets.components.version_checks import (
    check_current_index,
    check_drift,
    current_index_spec,
    drift_spec,
)
from imgsim_assets.similarity import items
from imgsim_assets.similarity.audit import audit_matches
from imgsim_assets.similarity.matches import SCHEMA, MatchReport, match_table, update_matches
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store

VERSION = "1"
# Up to so many pairs, all their cosines are shown.
_MOST_IN_HEAT_MAP = 400
GROUP = "matches"


def match_asset(
    settings: MatchMatrixSettings, project: Project, reports: Sequence[str] = ()
) -> dg.AssetsDefinition:
    """The match table of a left and a right catalogue.

    `reports` are the catalogues whose encoder_report decides the threshold.
    """
    key = dg.AssetKey(["matches", settings.name])
    left = dg.AssetKey([settings.left, "embeddings"])
    right = dg.AssetKey([settings.right, "index"])
    origins = of_matches(left, right)
    wanted = MatchSettings(threshold=settings.threshold, mode=settings.mode, k=settings.k)

    @dg.asset(
        key=key,
        group_name=GROUP,
        owners=list(settings.owners),
        tags=tagged(settings.tags, automated=settings.automation),
        automation_condition=on_new_data() if settings.automation else None,
        kinds={"faiss", "parquet"},
        deps=[
            dg.AssetDep(left, partition_mapping=dg.AllPartitionMapping()),
            right,
            *(dg.AssetKey([name, "encoder_report"]) for name in reports),
        ],
        description=settings.description or _description(settings),
        metadata={"dagster/column_schema": table_schema(SCHEMA)},
        code_version=code_version(VERSION, settings.left, settings.right, wanted.model_dump()),
        check_specs=[
            dg.AssetCheckSpec(
                "at_or_above_threshold", asset=key, description="No match is below the threshold."
            ),
            drift_spec(key, settings.checks),
            current_index_spec(key, settings.right),
            dg.AssetCheckSpec(
                "agrees_with_brute_force",
                asset=key,
                description="For sampled left items the matches are those of a plain product of "
                "all vectors: none missing, none false.",
            ),
        ],
    )
    def matches(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = project.store(context.run.run_id)
        report = update_matches(store, settings.name, settings.left, settings.right, wanted)
        table = match_table(store, settings.name)
        rows = table.read(table.at(report.version))
        audit = audit_matches(store, settings.name, sample=settings.checks.sample)
        return dg.MaterializeResult(
            metadata=_describe(store, settings, report, rows) | column_lineage(origins),
            data_version=dg.DataVersion(report.data_version),
            check_results=[
                _above_threshold(rows, report.threshold),
                brute_force_check(audit),
                check_drift(table, table.at(report.version), settings.checks),
                check_current_index(store, settings.right, settings.checks),
            ],
        )

    return matches


def _description(settings: MatchMatrixSettings) -> str:
    asked = {
        "all": f"Every pair of an item of {settings.left} and one of {settings.right}",
        "best": f"For each item of {settings.left} the best item of {settings.right}",
        "top_k": f"For each item of {settings.left} the {settings.k} best of {settings.right}",
        "one_to_one": f"Pairs of items of {settings.left} and {settings.right}, of no item more "
        "than one, of the greatest total similarity",
        "mutual": f"Pairs of items of {settings.left} and {settings.right} that are each other's "
        "best",
    }[settings.mode]
    return f"{asked}, where the images are similar enough."


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
