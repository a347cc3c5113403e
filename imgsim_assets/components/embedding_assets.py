"""The partitioned asset `embeddings` of a catalogue."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from imgsim_assets.components.blueprint import GPU_POOL, Blueprint, code_version
from imgsim_assets.components.lineage import carried, column_lineage
from imgsim_assets.components.metadata import counted, table_metadata, table_schema
from imgsim_assets.components.shard_runs import publish, run_shards
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.settings import HOG_COLOR
from imgsim_assets.encoders.stage import SCHEMA as EMBEDDINGS_SCHEMA
from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage, embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.store import Store

EMBEDDINGS_VERSION = "1"
_UNIT_TOLERANCE = 1e-5


def embeddings_asset(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The vectors of a shard's images."""
    settings = blueprint.settings
    encoder = settings.encoder
    kind = "numpy" if encoder.name == HOG_COLOR else "pytorch"

    origins = column_lineage(carried(blueprint.key("images"), ["id", "sha256"]))

    @dg.asset(
        **blueprint.basics("embeddings", [kind, "parquet"]),
        deps=[blueprint.key("images")],
        partitions_def=blueprint.partitions,
        backfill_policy=blueprint.backfill_policy,
        pool=GPU_POOL,
        description=f"One unit vector for every distinct image, by {encoder.describe()}. The same "
        "bytes are embedded once, whatever item or catalogue they belong to.",
        metadata={"dagster/column_schema": table_schema(EMBEDDINGS_SCHEMA)},
        code_version=code_version(EMBEDDINGS_VERSION, encoder.identity),
        check_specs=[
            blueprint.check(
                "embeddings",
                "vectors_finite_and_unit",
                "Every item that is ok has a vector, finite and of length 1.",
            )
        ],
    )
    def embeddings(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        stage = EmbeddingStage(store, settings.name, blueprint.encoder, log=context.log.info)
        outcome = run_shards(context, settings.shards, stage.run)
        publish(
            context,
            outcome,
            lambda report: _describe_embeddings(store, settings.name, report) | origins,
        )
        check = _vectors_finite_and_unit(store, settings.name, stage.fingerprint)
        return dg.MaterializeResult(check_results=[check])

    return embeddings


def _describe_embeddings(store: Store, name: str, report: EmbeddingReport) -> dict[str, Any]:
    rates = {f"images_per_second_{part}": round(rate, 1) for part, rate in report.rates.items()}
    return {
        **table_metadata(
            store, f"{name}/embeddings", report.version, report.items, changed=report.changed
        ),
        "distinct_images": report.images,
        "embedded": report.embedded,
        "reused": report.images - report.embedded,
        "borrowed": report.borrowed,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.embedded / max(report.seconds, 1e-6), 1),
        # Of one core (of one card, for forward passes on GPUs); the line above is of all.
        **rates,
        "device": report.device or "not needed",
        "precision": report.precision,
        **({"batch_size": report.batch_size} if report.batch_size else {}),
        "encoder_fingerprint": report.fingerprint,
        "statuses": counted(report.statuses, "status"),
    }


def _vectors_finite_and_unit(store: Store, name: str, fingerprint: str) -> dg.AssetCheckResult:
    table = embeddings_table(store, name)
    commit = table.latest()
    if commit is None:
        return dg.AssetCheckResult(check_name="vectors_finite_and_unit", passed=False)
    rows = table.read(commit).filter(pl.col("status") == OK)
    vectors = VectorTable(store, name, fingerprint)
    wanted = set(rows["sha256"].to_list())
    missing = vectors.lacking(wanted)
    seen = bad = 0
    for part in vectors.parts():
        counts = np.fromiter((sha256 in wanted for sha256 in part.sha256), bool)
        lengths = np.linalg.norm(part.vectors[counts].astype(np.float64), axis=1)
        seen += len(lengths)
        bad += int((~(np.abs(lengths - 1) <= _UNIT_TOLERANCE)).sum())
    return dg.AssetCheckResult(
        check_name="vectors_finite_and_unit",
        passed=not bad and not missing,
        metadata={"vectors": seen, "bad": bad, "missing": len(missing)},
    )
