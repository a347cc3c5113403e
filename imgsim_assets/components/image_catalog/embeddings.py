"""The partitioned asset `embeddings` of a catalog."""

import dagster as dg

from imgsim_assets.components.columns import EMBEDDINGS, table_schema
from imgsim_assets.components.image_catalog.checks import vectors_spec
from imgsim_assets.components.image_catalog.context import (
    GPU_POOL,
    AssetSpecKwargs,
    CatalogContext,
    code_version,
)
from imgsim_assets.encoders.settings import HOG_COLOR

EMBEDDINGS_VERSION = "1"


def embeddings_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The vectors of a shard's images."""

    @dg.asset(
        **embeddings_facts(blueprint),
        partitions_def=blueprint.partitions,
        backfill_policy=blueprint.backfill_policy,
        pool=GPU_POOL,
        check_specs=[vectors_spec(blueprint)],
    )
    def embeddings(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.embedding_steps import embed_shards

        return embed_shards(context, blueprint)

    return embeddings


def embeddings_facts(blueprint: CatalogContext) -> AssetSpecKwargs:
    """What the asset is, whichever step materializes it."""
    encoder = blueprint.settings.encoder
    kind = "numpy" if encoder.name == HOG_COLOR else "pytorch"
    return {
        **blueprint.basics("embeddings", [kind, "parquet"]),
        "deps": [blueprint.key("images")],
        "description": f"One unit vector for every distinct image, by {encoder.describe()}. The "
        "same bytes are embedded once, whatever item or catalog they belong to.",
        "metadata": {"dagster/column_schema": table_schema(EMBEDDINGS)},
        "code_version": code_version(EMBEDDINGS_VERSION, encoder.identity),
    }
