"""What a run does for `embeddings`: embed shards, describe them, check the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.image_catalog.checks import VECTORS_NORMALIZED
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import carried, column_lineage
from imgsim_assets.components.metadata import counted, table_metadata
from imgsim_assets.components.shard_runs import ShardRun, publish, run_shards
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage, embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


def embed_shards(
    context: dg.AssetExecutionContext, blueprint: CatalogContext
) -> dg.MaterializeResult:
    """Embed what is new of the run's shards, and check the catalog's vectors."""
    store = blueprint.project.store(context.run.run_id)
    stage = EmbeddingStage(store, blueprint.name, blueprint.encoder, log=context.log.info)
    outcome = run_shards(context, blueprint.settings.shards, stage.run)
    publish_embeddings(context, blueprint, store, outcome)
    check = vectors_normalized(store, blueprint.settings, stage.fingerprint)
    return dg.MaterializeResult(check_results=[check])


def publish_embeddings(
    context: dg.AssetExecutionContext,
    blueprint: CatalogContext,
    store: Store,
    outcome: ShardRun[EmbeddingReport],
) -> None:
    """Attach what came of each shard to its materialization; raises where a shard failed."""
    origins = column_lineage(carried(blueprint.key("images"), ["id", "sha256"]))
    publish(
        context,
        blueprint.key("embeddings"),
        outcome,
        lambda report: _describe_embeddings(store, blueprint.name, report) | origins,
    )


def _describe_embeddings(store: Store, name: str, report: EmbeddingReport) -> dict[str, Any]:
    rates = {
        f"images_per_second_{part}": round(rate, 1)
        for part, rate in report.images_per_second.items()
    }
    return {
        **table_metadata(
            store, f"{name}/embeddings", report.version, report.items, changed=report.changed
        ),
        "distinct_images": report.images,
        "embedded": report.embedded,
        **({"embedded_while_fetching": report.embedded_early} if report.embedded_early else {}),
        "reused": report.images - report.embedded,
        "reused_from_other_catalogs": report.reused,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.embedded / max(report.seconds, 1e-6), 1),
        # Of one core (of one card, for forward passes on GPUs); the line above is of all.
        **rates,
        "device": report.device or "not needed",
        "precision": report.precision,
        **({"batch_size": report.batch_size} if report.batch_size else {}),
        "encoder_fingerprint": report.fingerprint,
        **({"dim": report.dim} if report.dim else {}),
        "recommended_threshold": report.recommended_threshold,
        "statuses": counted(report.statuses, "status"),
    }


def vectors_normalized(
    store: Store, settings: CatalogSettings, fingerprint: str
) -> dg.AssetCheckResult:
    """Vectors that are missing or no unit vectors, as the check of that name."""
    table = embeddings_table(store, settings.name)
    commit = table.latest()
    vectors = VectorTable(store, settings.name, fingerprint)
    audit = vectors.audit(_images_of(table, commit, settings) if commit is not None else [])
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey([settings.name, "embeddings"]),
        check_name=VECTORS_NORMALIZED,
        passed=commit is not None and not audit.bad and not audit.missing,
        metadata={"vectors": audit.vectors, "bad": audit.bad, "missing": audit.missing},
    )


def _images_of(table: Table, commit: Commit, settings: CatalogSettings) -> Iterator[pl.Series]:
    """The sha256 of the images that are to have a vector, shard by shard."""
    for index in range(settings.shards):
        shard = Shard(index, settings.shards)
        rows = table.read(commit, shard=shard, columns=["sha256", "status"])
        if rows.width:
            yield rows.filter(pl.col("status") == OK)["sha256"]
