"""The asset `encoder_evaluation` of a catalog that declares one."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import GPU_POOL, STEP_KWARGS, code_version
from imgsim_assets.components.checks import asset_check
from imgsim_assets.components.columns import ENCODER_EVALUATION, table_schema
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.encoders.settings import EVALUATION_VERSION, EvaluationSettings
from imgsim_assets.pipeline.check_names import THRESHOLD_CALIBRATED
from imgsim_assets.text import counted

if TYPE_CHECKING:
    from imgsim_assets.evaluation.stage import EncoderEvaluation
    from imgsim_assets.storage.store import Store

# Thresholds that are listed beside the recommended one.
_LISTED_THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def evaluation_asset(catalog: CatalogContext, settings: EvaluationSettings) -> dg.AssetsDefinition:
    """How well the encoder works on the catalog's images, and at which threshold."""
    budget = f"{settings.false_matches * 100:g} %"

    @dg.asset(
        **catalog.asset_kwargs("encoder_evaluation", ["parquet"]),
        **TABLE_ASSET,
        **STEP_KWARGS,
        deps=[dg.AssetDep(catalog.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"Recall of edited copies of {settings.sample_size} of the catalog's own "
        "images and false matches among different ones, by threshold; and the lowest threshold at "
        f"which at most {budget} of the items get a false best match.",
        metadata={"dagster/column_schema": table_schema(ENCODER_EVALUATION)},
        code_version=code_version(EVALUATION_VERSION, settings.model_dump()),
        pool=GPU_POOL,
        check_specs=[
            catalog.check_spec(
                "encoder_evaluation",
                THRESHOLD_CALIBRATED,
                "The catalog is large enough to measure the threshold at which at most "
                f"{budget} of the items get a false best match.",
            )
        ],
    )
    @retry_faults
    def encoder_evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.pipeline import checks

        refuse_failed_inputs(context)
        catalog.require_weights()
        pipeline = catalog.pipeline(context)
        evaluation = pipeline.evaluate()
        calibrated = checks.threshold_calibrated(evaluation, settings.false_matches)
        return dg.MaterializeResult(
            metadata=_describe(pipeline.store, catalog.name, evaluation),
            data_version=dg.DataVersion(evaluation.data_version),
            check_results=[asset_check(THRESHOLD_CALIBRATED, calibrated, severity="warn")],
        )

    return encoder_evaluation


def _describe(store: "Store", name: str, evaluation: "EncoderEvaluation") -> dict[str, Any]:
    import numpy as np

    from imgsim_assets.components.metadata import linked_image, svg, table_metadata
    from imgsim_assets.images.small_chart import MAX_BINS, small_bar_chart, small_histogram

    table = f"{name}/encoder_evaluation"
    bins = len(evaluation.null_counts)
    starts = [bins * number // MAX_BINS for number in range(MAX_BINS)]

    described: dict[str, Any] = {
        **table_metadata(store, table, evaluation, evaluation.rows.height),
        "recommended_threshold": evaluation.threshold,
        "threshold_source": evaluation.source,
        **_interval(evaluation),
        THRESHOLD_CALIBRATED: evaluation.is_measured,
        "false_best_matches": round(evaluation.false_best_matches, 4),
        "false_positives_per_million": round(evaluation.false_positives_per_million, 1),
        "items": evaluation.items,
        "images": evaluation.images,
        "pairs": evaluation.pairs,
        "seconds": round(evaluation.seconds, 3),
        "encoder": evaluation.encoder,
        "encoder_fingerprint": evaluation.fingerprint,
        "recall": svg(
            small_bar_chart(
                [(kind, round(recall, 3)) for kind, recall in evaluation.recall.items()]
            ),
            "recall by kind of edit",
        ),
        "thresholds": _thresholds(evaluation),
        "different_images": svg(
            small_histogram(
                np.add.reduceat(evaluation.null_counts, starts).tolist(),
                -1,
                1,
                title=f"{counted(evaluation.pairs, 'pair')} of different images",
                cutoff=evaluation.threshold,
            ),
            "null distribution",
        ),
        "trade_off": linked_image(
            store, table, evaluation.version, "trade_off.svg", _trade_off(evaluation).encode()
        ),
    }
    if (judged := _judged_matches(store, name)) is not None:
        described["judged_matches"] = judged
    if evaluation.labels is not None:
        described |= {
            "labeled_images": evaluation.labels.images,
            "precision_at_1": round(evaluation.labels.precision_at_1, 4),
            "precision_at_10": round(evaluation.labels.precision_at_10, 4),
            "mean_average_precision": round(evaluation.labels.mean_average_precision, 4),
        }
    return described


def _interval(evaluation: "EncoderEvaluation") -> dict[str, str]:
    """The interval of the threshold, unless too few items measure one and it is another."""
    if not evaluation.is_measured:
        return {}
    return {"threshold_interval": "{:g} to {:g}".format(*evaluation.interval)}


def _judged_matches(store: "Store", name: str) -> dg.MetadataValue | None:
    """What decisions measure of the match tables of a catalog; None where they measure nothing."""
    import polars as pl

    from imgsim_assets.components.metadata import preview
    from imgsim_assets.pipeline.review_pairs import judged_matches

    rows = judged_matches(store, name)
    return preview(pl.DataFrame(rows)) if rows else None


def _trade_off(evaluation: "EncoderEvaluation") -> str:
    from imgsim_assets.evaluation.operating_points import operating_points
    from imgsim_assets.images.plot import trade_off

    points = operating_points(evaluation.rows)
    return trade_off(
        points["threshold"].to_list(),
        points["recall"].to_list(),
        (points["false_best_matches"] * 1000).to_list(),
        title=f"by threshold, {evaluation.threshold:g} recommended",
        rate_label="edited copies that are found",
        count_label="items of a thousand with a false best match",
        mark=evaluation.threshold,
    )


def _thresholds(evaluation: "EncoderEvaluation") -> dg.MetadataValue:
    """Recall and false matches at some thresholds, the recommended one among them."""
    import polars as pl

    from imgsim_assets.evaluation.operating_points import floor_to_grid, operating_points

    listed = sorted({*_LISTED_THRESHOLDS, floor_to_grid(evaluation.threshold)})
    points = operating_points(evaluation.rows).filter(pl.col("threshold").is_in(listed))
    columns = {
        "threshold": 3,
        "recall": 3,
        "false_best_matches": 4,
        "false_positives_per_million": 1,
    }
    records = [
        dg.TableRecord({name: round(row[name], digits) for name, digits in columns.items()})
        for row in points.iter_rows(named=True)
    ]
    return dg.MetadataValue.table(
        records, schema=dg.TableSchema([dg.TableColumn(name, "float") for name in columns])
    )
