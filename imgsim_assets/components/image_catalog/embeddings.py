"""The partitioned asset `embeddings` of a catalog: one vector for each distinct image."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import GPU_POOL, AssetSpecKwargs, code_version
from imgsim_assets.components.audits import audit_check
from imgsim_assets.components.checks import invariant_results
from imgsim_assets.components.columns import EMBEDDINGS, table_schema
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import column_lineage, passthrough_columns
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import RETRY_POLICY, retry_faults
from imgsim_assets.components.shard_runs import publish, shards_of_run
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.encoders.settings import HOG_COLOR, MIN_SIDE, EncoderSettings
from imgsim_assets.pipeline.check_names import ALL_VECTORS_NORMALIZED, VECTORS_NORMALIZED

if TYPE_CHECKING:
    from imgsim_assets.encoders.report import EmbeddingReport
    from imgsim_assets.encoders.stream import EmbeddingStream
    from imgsim_assets.pipeline.catalog import CatalogPipeline
    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.storage.store import Store

VERSION = "1"


def embeddings_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The vectors of a shard's images."""

    @dg.asset(
        **embeddings_kwargs(catalog),
        **TABLE_ASSET,
        partitions_def=catalog.partitions,
        backfill_policy=catalog.backfill_policy,
        pool=GPU_POOL,
        retry_policy=RETRY_POLICY,
        check_specs=[vectors_spec(catalog)],
    )
    @retry_faults
    def embeddings(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        refuse_failed_inputs(context)
        catalog.require_weights()
        return dg.MaterializeResult(
            check_results=[embed(context, catalog, catalog.pipeline(context))]
        )

    return embeddings


def embeddings_kwargs(catalog: CatalogContext) -> AssetSpecKwargs:
    """The arguments that describe the asset, whichever step materializes it."""
    encoder = catalog.settings.encoder
    kind = "numpy" if encoder.name == HOG_COLOR else "pytorch"
    return {
        **catalog.asset_kwargs("embeddings", [kind, "parquet"]),
        "deps": [catalog.key("images")],
        "description": f"One unit vector for every distinct image, by {encoder.describe()}. The "
        "same bytes are embedded once for all items and catalogs.",
        "metadata": {"dagster/column_schema": table_schema(EMBEDDINGS)},
        "code_version": code_version(VERSION, encoder.identity, *_content_rules(encoder)),
    }


def _content_rules(encoder: EncoderSettings) -> list[str]:
    """The settings, other than their defaults, that decide which images are embedded."""
    rules = ["truncated"] if encoder.truncated_images == "accept" else []
    rules += ["blank"] if encoder.blank == "keep" else []
    rules += [f"min_side {encoder.min_side}"] if encoder.min_side != MIN_SIDE else []
    return rules


def vectors_spec(catalog: CatalogContext) -> dg.AssetCheckSpec:
    """Every embedded image has a unit vector, by the figures of the files of vectors."""
    return catalog.invariant_spec(
        "embeddings",
        VECTORS_NORMALIZED,
        "Every image of the run's shards that is ok has a vector, and every vector was finite and "
        "of length 1 when it was written.",
    )


def vectors_audit(catalog: CatalogContext) -> dg.AssetChecksDefinition:
    """Every embedded image has a unit vector; reads all vectors."""

    def evaluate(store: "Store") -> "CheckResult":
        from imgsim_assets.pipeline import checks

        return checks.vectors_normalized(store, catalog.name)

    return audit_check(
        ALL_VECTORS_NORMALIZED,
        catalog.key("embeddings"),
        "Every image that is ok has a finite vector of length 1; every vector is read.",
        catalog.settings.checks,
        evaluate,
    )


def embed(
    context: dg.AssetExecutionContext,
    catalog: CatalogContext,
    pipeline: "CatalogPipeline",
    stream: "EmbeddingStream | None" = None,
) -> dg.AssetCheckResult:
    """Embed the run's shards, publish their reports, and check their vectors."""
    key = catalog.key("embeddings")
    shards = shards_of_run(context, catalog.settings.shards)
    reports = pipeline.embed(shards, stream=stream)
    lineage = column_lineage(passthrough_columns(catalog.key("images"), ["id", "image", "sha256"]))
    publish(
        context,
        key,
        reports,
        lambda report: _describe(pipeline.store, catalog.name, report) | lineage,
    )
    (check,) = invariant_results(
        pipeline.check_embeddings(shards), catalog.settings.checks, key=key
    )
    return check


def _describe(store: "Store", name: str, report: "EmbeddingReport") -> dict[str, Any]:
    from imgsim_assets.components.metadata import counts_table, table_metadata

    rates = {
        f"images_per_second_{part}": round(rate, 1)
        for part, rate in report.images_per_second.items()
    }
    return {
        **table_metadata(store, f"{name}/embeddings", report, report.images),
        "items": report.items,
        "usable_items": report.usable_items,
        "images": report.images,
        "distinct_images": report.distinct_images,
        "embedded": report.embedded,
        **({"embedded_while_fetching": report.embedded_early} if report.embedded_early else {}),
        "reused": report.distinct_images - report.embedded,
        "reused_from_other_catalogs": report.reused,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.embedded / max(report.seconds, 1e-6), 1),
        # Of one core (of one card, for forward passes on GPUs); the line above is of all.
        **rates,
        "device": report.device or "not needed",
        "precision": report.precision,
        **({"batch_size": report.batch_size} if report.batch_size else {}),
        "encoder": report.encoder,
        "encoder_fingerprint": report.fingerprint,
        **({"dim": report.dim} if report.dim else {}),
        **(
            {"recommended_threshold": report.recommended_threshold}
            if report.recommended_threshold is not None
            else {}
        ),
        "statuses": counts_table(report.statuses, "status"),
    }
