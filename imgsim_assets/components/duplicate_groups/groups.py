"""The assets of duplicate groups: of one catalog, and across several."""

from collections.abc import Sequence

import dagster as dg

from imgsim_assets.components.automation import on_new_data, tagged
from imgsim_assets.components.columns import GROUPS, GROUPS_ACROSS, table_schema
from imgsim_assets.components.image_catalog.checks import ONE_CANONICAL_PER_GROUP
from imgsim_assets.components.image_catalog.context import CatalogContext, code_version
from imgsim_assets.components.project import Project
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.similarity.settings import (
    CROSS_CATALOG_GROUPS,
    CrossCatalogGroupSettings,
    GroupSettings,
)

VERSION = "2"
_SAYS = "Every group has two items or more and one canonical item, and no item is in two."


def groups_asset(blueprint: CatalogContext, settings: GroupSettings) -> dg.AssetsDefinition:
    """The items of a catalog that show the same, by group."""
    name = blueprint.name

    @dg.asset(
        **blueprint.basics("duplicate_groups", ["parquet"]),
        deps=[
            blueprint.key("index"),
            _images_of(name),
            *blueprint.advice(settings.threshold),
        ],
        description="Items whose images are similar enough to hang together, by group, with how "
        "alike they are.",
        metadata={"dagster/column_schema": table_schema(GROUPS)},
        code_version=code_version(VERSION, settings.model_dump()),
        check_specs=[blueprint.check("duplicate_groups", ONE_CANONICAL_PER_GROUP, _SAYS)],
    )
    def duplicate_groups(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.duplicate_groups.group_steps import group_items

        return group_items(context, blueprint, settings)

    return duplicate_groups


def across_asset(
    settings: DuplicateGroupsSettings, project: Project, reports: Sequence[str]
) -> dg.AssetsDefinition:
    """The items of several catalogs that show the same, by group.

    `reports` are the catalogs whose encoder_evaluation decides the threshold.
    """
    key = dg.AssetKey([CROSS_CATALOG_GROUPS, settings.name])
    wanted = CrossCatalogGroupSettings(
        threshold=settings.threshold,
        canonical=settings.canonical,
        linkage=settings.linkage,
    )

    @dg.asset(
        key=key,
        group_name=CROSS_CATALOG_GROUPS,
        owners=list(settings.owners),
        tags=tagged(settings.tags, automated=settings.automation),
        automation_condition=on_new_data() if settings.automation else None,
        kinds={"parquet"},
        deps=[
            *(dg.AssetKey([name, "index"]) for name in settings.catalogs),
            *(_images_of(name) for name in settings.catalogs),
            *(dg.AssetKey([name, "encoder_evaluation"]) for name in reports),
        ],
        description=settings.description
        or f"Items of {', '.join(settings.catalogs)} whose images are similar enough to hang "
        "together, by group, with how alike they are.",
        metadata={"dagster/column_schema": table_schema(GROUPS_ACROSS)},
        code_version=code_version(VERSION, settings.catalogs, wanted.model_dump()),
        check_specs=[dg.AssetCheckSpec(ONE_CANONICAL_PER_GROUP, asset=key, description=_SAYS)],
    )
    def groups_across(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.duplicate_groups.group_steps import group_across

        return group_across(context, project, settings, wanted)

    return groups_across


def _images_of(name: str) -> dg.AssetDep:
    """All images of a catalog: their size, or when they were fetched, decides which item is canonical."""
    return dg.AssetDep(dg.AssetKey([name, "images"]), partition_mapping=dg.AllPartitionMapping())
