"""The assets `source` (observed) and `catalog` (validated rows) of a catalog."""

import dagster as dg
from pydantic import Field

from imgsim_assets.components.image_catalog.context import CatalogContext, code_version

VERSION = "1"


def source_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The source as an external asset, observed by the hash of its content."""
    settings = blueprint.settings.source
    spec = dg.AssetSpec(
        **blueprint.basics("source", ["file"]) | {"automation_condition": _watch(blueprint)},
        description=f"`{settings.path}`, as it is delivered. Observed by content hash, never "
        "materialized.",
        metadata={"path": settings.path},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        from imgsim_assets.components.image_catalog.source_steps import observe_source

        return observe_source(context, blueprint)

    observable = dg.multi_observable_source_asset(specs=[spec], name=f"{blueprint.name}__source")
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def _watch(blueprint: CatalogContext) -> dg.AutomationCondition | None:
    settings = blueprint.settings
    if settings.watch is None or not settings.automation:
        return None
    return dg.AutomationCondition.on_cron(settings.watch, settings.timezone)


class ItemsConfig(dg.Config):
    """What a person may say about one run of a catalog."""

    allow_removals: bool = Field(
        False, description="take the source as it is, however many items it has lost"
    )


def catalog_asset(blueprint: CatalogContext) -> dg.AssetsDefinition:
    """The validated rows, split into shards."""
    settings = blueprint.settings

    @dg.asset(
        **blueprint.basics("items", ["polars", "parquet"]),
        deps=[blueprint.key("source")],
        description=f"{settings.description or ''} The source's rows that can be used: id, url "
        "and every carried column, split "
        f"into {settings.shards} stable shards. Rows that cannot be used are listed in "
        f"`{settings.name}/rejects` with line and reason.",
        code_version=code_version(VERSION, settings.source.model_dump(), settings.shards),
        freshness_policy=blueprint.freshness,
        check_specs=[
            blueprint.check("items", "ids_unique", "No id stands twice."),
            blueprint.check("items", "no_rejects", "Every row of the source can be used."),
        ],
    )
    def catalog(context: dg.AssetExecutionContext, config: ItemsConfig) -> dg.MaterializeResult:
        from imgsim_assets.components.image_catalog.source_steps import take_in

        return take_in(context, blueprint, allow_removals=config.allow_removals)

    return catalog
