"""What a run does for `encoder_evaluation`: measure, describe, check."""

from __future__ import annotations

from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from imgsim_assets.components.image_catalog.checks import THRESHOLD_CALIBRATED
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.metadata import svg, table_metadata
from imgsim_assets.encoders.evaluation import EncoderEvaluation, EvaluationStage
from imgsim_assets.encoders.operating_points import floor_to_grid, operating_points
from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.images.plot import bar_chart, histogram, trade_off
from imgsim_assets.storage.store import Store

# Bars of the histogram; finer ones are narrower than the gaps between them.
_DRAWN_BINS = 100
# Thresholds that are listed beside the recommended one.
_SHOWN = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def measure_encoder(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, settings: EvaluationSettings
) -> dg.MaterializeResult:
    """Measure the encoder on the catalog's images, if anything it depends on has changed."""
    name = blueprint.name
    store = blueprint.project.store(context.run.run_id)
    stage = EvaluationStage(store, name, settings, blueprint.encoder, log=context.log.info)
    report = stage.run()
    return dg.MaterializeResult(
        metadata=_describe(store, name, report),
        data_version=dg.DataVersion(report.data_version),
        check_results=[_is_measured(report, settings)],
    )


def _is_measured(report: EncoderEvaluation, settings: EvaluationSettings) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=THRESHOLD_CALIBRATED,
        passed=report.is_measured,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "threshold": report.threshold,
            "pairs": report.pairs,
            "false_positives_per_million": round(report.false_positives_per_million, 1),
            "budget": settings.false_positives_per_million,
        },
    )


def _describe(store: Store, name: str, report: EncoderEvaluation) -> dict[str, Any]:
    described: dict[str, Any] = {
        **table_metadata(
            store,
            f"{name}/encoder_evaluation",
            report.version,
            report.rows.height,
            changed=report.changed,
        ),
        "recommended_threshold": report.threshold,
        "threshold_calibrated": report.is_measured,
        "false_matches_per_million_pairs": round(report.false_positives_per_million, 1),
        "images": report.images,
        "pairs": report.pairs,
        "seconds": round(report.seconds, 3),
        "encoder_fingerprint": report.fingerprint,
        "recall": svg(
            bar_chart(
                [(edit, round(share, 3)) for edit, share in report.recall.items()],
                title=f"edited copies at or above {report.threshold:g}",
                full=1.0,
            ),
            "recall by kind of edit",
        ),
        "trade_off": svg(_trade_off(report), "recall and false matches by threshold"),
        "thresholds": _thresholds(report),
        "different_images": svg(
            histogram(
                np.reshape(report.null_counts, (_DRAWN_BINS, -1)).sum(axis=1).tolist(),
                np.linspace(-1, 1, _DRAWN_BINS + 1).tolist(),
                title=f"cosine of {report.pairs:,} pairs of different images",
                mark=report.threshold,
                mark_label="threshold",
            ),
            "null distribution",
        ),
    }
    if report.labels is not None:
        described |= {
            "labeled_images": report.labels.images,
            "precision_at_1": round(report.labels.precision_at_1, 4),
            "precision_at_10": round(report.labels.precision_at_10, 4),
            "mean_average_precision": round(report.labels.mean_average_precision, 4),
        }
    return described


def _trade_off(report: EncoderEvaluation) -> str:
    choices = operating_points(report.rows)
    return trade_off(
        choices["threshold"].to_list(),
        choices["recall"].to_list(),
        choices["false_positives_per_million"].to_list(),
        title=f"by threshold, {report.threshold:g} recommended",
        gain_label="edited copies that are found",
        price_label="false matches in a million pairs",
        mark=report.threshold,
    )


def _thresholds(report: EncoderEvaluation) -> dg.MetadataValue:
    """What some thresholds give and cost, the recommended one among them."""
    shown = sorted({*_SHOWN, floor_to_grid(report.threshold)})
    chosen = operating_points(report.rows).filter(pl.col("threshold").is_in(shown))
    columns = {"threshold": 3, "recall": 3, "false_positives_per_million": 1}
    records = [
        dg.TableRecord({name: round(row[name], digits) for name, digits in columns.items()})
        for row in chosen.iter_rows(named=True)
    ]
    return dg.MetadataValue.table(
        records, schema=dg.TableSchema([dg.TableColumn(name, "float") for name in columns])
    )
