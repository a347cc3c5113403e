"""The asset `encoder_report` of a catalogue that asks for one."""

from typing import Any

import dagster as dg
import numpy as np

from imgsim_assets.components.blueprint import Blueprint, code_version
from imgsim_assets.components.metadata import svg, table_metadata, table_schema
from imgsim_assets.encoders.report import SCHEMA, VERSION, EncoderReport, update_report
from imgsim_assets.encoders.report_settings import ReportSettings
from imgsim_assets.images.plot import bars, histogram
from imgsim_assets.storage.store import Store


def report_asset(blueprint: Blueprint, settings: ReportSettings) -> dg.AssetsDefinition:
    """How well the encoder does on this catalogue's pictures, and at which threshold."""
    name = blueprint.name

    @dg.asset(
        **blueprint.basics("encoder_report", ["parquet"]),
        deps=[dg.AssetDep(blueprint.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"Recall of edited copies of {settings.sample} of the catalogue's own pictures "
        "and false matches among different ones, by threshold; and the lowest threshold with at "
        f"most {settings.false_per_million:g} false matches in a million pairs.",
        metadata={"dagster/column_schema": table_schema(SCHEMA)},
        code_version=code_version(str(VERSION), settings.model_dump()),
    )
    def encoder_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        report = update_report(store, name, settings, log=context.log.info)
        return dg.MaterializeResult(
            metadata=_describe(store, name, report),
            data_version=dg.DataVersion(report.data_version),
        )

    return encoder_report


def _describe(store: Store, name: str, report: EncoderReport) -> dict[str, Any]:
    described: dict[str, Any] = {
        **table_metadata(
            store,
            f"{name}/encoder_report",
            report.version,
            report.rows.height,
            changed=report.changed,
        ),
        "recommended_threshold": report.threshold,
        "threshold_is_measured": report.is_measured,
        "false_matches_per_million_pairs": round(report.false_per_million, 1),
        "images": report.images,
        "pairs": report.pairs,
        "seconds": round(report.seconds, 3),
        "encoder_fingerprint": report.fingerprint,
        "recall": svg(
            bars(
                [(edit, round(share, 3)) for edit, share in report.recall.items()],
                title=f"edited copies at or above {report.threshold:g}",
            ),
            "recall by kind of edit",
        ),
        "different_pictures": svg(
            histogram(
                report.null_counts,
                np.linspace(-1, 1, len(report.null_counts) + 1).tolist(),
                title=f"cosine of {report.pairs:,} pairs of different pictures",
                mark=report.threshold,
                mark_label="threshold",
            ),
            "null distribution",
        ),
    }
    if report.labels is not None:
        described |= {
            "labelled_images": report.labels.images,
            "precision_at_1": round(report.labels.precision_at_1, 4),
            "precision_at_10": round(report.labels.precision_at_10, 4),
            "mean_average_precision": round(report.labels.mean_average_precision, 4),
        }
    return described
