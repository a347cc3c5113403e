"""The partitioned asset `images` of a catalog."""

from enum import Enum

import dagster as dg
from pydantic import Field

from imgsim_assets.components.columns import IMAGES, table_schema
from imgsim_assets.components.image_catalog.checks import success_rate_spec
from imgsim_assets.components.image_catalog.context import (
    NETWORK_POOL,
    AssetSpecKwargs,
    CatalogContext,
    code_version,
)

IMAGES_VERSION = "2"


class RetryChoice(Enum):
    """Which failures of earlier runs are tried again."""

    all = "all"
    retryable = "retryable"
    none = "none"


class ImagesConfig(dg.Config):
    """What a person may ask of one run."""

    retry: RetryChoice = Field(
        RetryChoice.retryable,
        description="failures of earlier runs to try again: all, the retryable ones that are "
        "due, or none",
    )


def images_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The download of a shard's images, with the ledger of what came of each item."""

    @dg.asset(
        **images_facts(blueprint),
        partitions_def=blueprint.partitions,
        backfill_policy=blueprint.backfill_policy,
        pool=NETWORK_POOL,
        check_specs=[success_rate_spec(blueprint)],
    )
    def images(context: dg.AssetExecutionContext, config: ImagesConfig) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.image_steps import fetch_shards

        return fetch_shards(context, blueprint, config.retry.value)

    return images


def images_facts(blueprint: CatalogContext) -> AssetSpecKwargs:
    """What the asset is, whichever step materializes it."""
    return {
        **blueprint.basics("images", ["http", "parquet"]),
        "deps": [blueprint.key("items")],
        "description": "One row for every item: where its image came from, what it is, or why "
        "there is none. Fetched is only what is new, changed, or due for another try.",
        "metadata": {"dagster/column_schema": table_schema(IMAGES)},
        "code_version": code_version(IMAGES_VERSION),
    }
