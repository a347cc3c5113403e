"""The checks that are declared in one module and evaluated in another: names and meanings."""

from __future__ import annotations

import dagster as dg

from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.pipeline.settings import CheckSettings

SUCCESS_RATE = "success_rate"
VECTORS_NORMALIZED = "vectors_normalized"
DRIFT = "similarity_drift"
CURRENT_INDEX = "index_is_current"
ONE_CANONICAL_PER_GROUP = "one_canonical_per_group"
THRESHOLD_CALIBRATED = "threshold_calibrated"


def success_rate_spec(blueprint: CatalogContext) -> dg.AssetCheckSpec:
    """The check that enough items have an image."""
    checks = blueprint.settings.checks
    return blueprint.check(
        "images",
        SUCCESS_RATE,
        f"At least {checks.min_success_rate:.0%} of the items have an image.",
        blocking=checks.severity == "error",
    )


def vectors_spec(blueprint: CatalogContext) -> dg.AssetCheckSpec:
    """The check that vectors are there, and are unit vectors."""
    return blueprint.check(
        "embeddings",
        VECTORS_NORMALIZED,
        "Every item that is ok has a vector, finite and of length 1.",
    )


def drift_spec(key: dg.AssetKey, settings: CheckSettings) -> dg.AssetCheckSpec:
    """The check that similarities are distributed as they were in the last version."""
    return dg.AssetCheckSpec(
        DRIFT,
        asset=key,
        description="Similarities are distributed as in the last version: their cumulative "
        f"shares differ by no more than {settings.max_drift:.0%}.",
    )


def current_index_spec(key: dg.AssetKey, name: str) -> dg.AssetCheckSpec:
    """The check that an index holds the items that its catalog's embeddings hold now."""
    return dg.AssetCheckSpec(
        CURRENT_INDEX,
        asset=key,
        description=f"{name}/index holds exactly the items of {name}/embeddings.",
    )
