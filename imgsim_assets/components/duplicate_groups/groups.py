"""The assets of duplicate groups: of one catalog, and across several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import (
    CPU_POOL,
    GPU_POOL,
    STEP_KWARGS,
    asset_kwargs,
    code_version,
)
from imgsim_assets.components.checks import (
    asset_check,
    invariant_results,
    invariant_spec,
    recall_results,
    recall_specs,
)
from imgsim_assets.components.columns import (
    CROSS_CATALOG_GROUPS_COLUMNS,
    GROUPS,
    ORIENTATION,
    table_schema,
)
from imgsim_assets.components.export import export_table
from imgsim_assets.components.ignore_list import IGNORE_LIST
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.reviews import DeclaredReviews, group_reviews
from imgsim_assets.components.store.resource import TABLE_ASSET, open_store
from imgsim_assets.components.thresholds import describe_threshold, threshold_hint
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.check_names import GROUPS_COHERENT, ONE_CANONICAL_PER_GROUP
from imgsim_assets.pipeline.settings import (
    CatalogSettings,
    CheckSettings,
    DuplicateGroupsSettings,
)
from imgsim_assets.similarity.settings import (
    CROSS_CATALOG_GROUPS,
    CrossCatalogGroupSettings,
    GroupSettings,
    LinkSettings,
)

if TYPE_CHECKING:
    from imgsim_assets.similarity.duplicate_groups import GroupReport
    from imgsim_assets.storage.store import Store
    from imgsim_assets.storage.table import Table

VERSION = "3"
GROUPS_IGNORE_LIST = f"duplicate_groups/{IGNORE_LIST}"
_CHECK_DESCRIPTION = (
    "Every group has two items or more and one canonical item, and no item is in two groups."
)


def _check_specs(
    key: dg.AssetKey, links: LinkSettings, settings: CheckSettings
) -> list[dg.AssetCheckSpec]:
    return [
        invariant_spec(key, ONE_CANONICAL_PER_GROUP, _CHECK_DESCRIPTION, settings),
        dg.AssetCheckSpec(
            GROUPS_COHERENT,
            asset=key,
            description="No group probably joins different images: none of more than 10 items has "
            f"more than {settings.max_group_fraction:.0%} of all items, a minimum similarity more "
            f"than {settings.max_similarity_gap:g} below the threshold, or a single link between "
            f"two parts of more than {settings.max_bridged_items} items.",
            blocking=settings.severity == "error",
        ),
        *recall_specs(key, links, settings),
    ]


def catalog_group_reviews(catalog: CatalogContext) -> DeclaredReviews | None:
    """The file of decisions that a catalog declares about its groups; None without one."""
    groups = catalog.settings.groups
    if groups is None or groups.reviews is None:
        return None
    return group_reviews(catalog.name, [catalog.name], groups.reviews, catalog.root)


def groups_asset(catalog: CatalogContext, settings: GroupSettings) -> dg.AssetsDefinition:
    """The items of one catalog that show the same, by group."""
    reviews = catalog_group_reviews(catalog)

    @dg.asset(
        **catalog.asset_kwargs("duplicate_groups", ["parquet"]),
        **TABLE_ASSET,
        **STEP_KWARGS,
        pool=GPU_POOL if settings.orientations else CPU_POOL,
        deps=[
            catalog.key("index"),
            _all_of(catalog.key("images")),
            *([catalog.key("items")] if settings.within else []),
            *([catalog.key(GROUPS_IGNORE_LIST)] if settings.ignore is not None else []),
            *([catalog.asset_key(*reviews.path)] if reviews is not None else []),
            *catalog.threshold_deps(settings),
        ],
        description="Items that are connected by similar images, by group, with the similarities "
        "within the group.",
        metadata={"dagster/column_schema": table_schema(_columns(GROUPS, settings))},
        code_version=code_version(VERSION, settings.model_dump(exclude={"reviews"})),
        check_specs=_check_specs(
            catalog.key("duplicate_groups"), settings, catalog.settings.checks
        ),
    )
    @retry_faults
    def duplicate_groups(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.similarity.group_tables import groups_table

        refuse_failed_inputs(context)
        pipeline = catalog.pipeline(context)
        if reviews is not None:
            reviews.import_file(pipeline.store, context.log)
        report = pipeline.groups()
        return _result(
            pipeline.store,
            groups_table(pipeline.store, catalog.name),
            report,
            catalog.settings,
            settings,
            catalog.root,
        )

    return duplicate_groups


def cross_catalog_groups_asset(
    settings: DuplicateGroupsSettings,
    asset_key: Callable[..., dg.AssetKey],
    evaluated: Sequence[str],
    root: Path = Path(),
    inputs: Sequence[dg.AssetKey] = (),
    encoders: Mapping[str, EncoderSettings] | None = None,
    reviews: DeclaredReviews | None = None,
) -> dg.AssetsDefinition:
    """The items of several catalogs that show the same, by group.

    Args:
        settings: the groups as declared.
        asset_key: the key, in the project, of an asset of a catalog or of this component.
        evaluated: the catalogs whose encoder_evaluation decides the threshold.
        root: the project's root, from which relative paths of the export and of images start.
        inputs: the keys of the ignore list and the decisions, where they are declared.
        encoders: of the catalogs, for orientations.
        reviews: the declared file of decisions; None without one.
    """
    key = asset_key(CROSS_CATALOG_GROUPS, settings.name)
    group_settings = settings.model_dump(include=set(CrossCatalogGroupSettings.model_fields))

    @dg.asset(
        **asset_kwargs(key, CROSS_CATALOG_GROUPS, settings, {"parquet"}),
        **TABLE_ASSET,
        **STEP_KWARGS,
        pool=GPU_POOL if settings.orientations else CPU_POOL,
        deps=[
            *(asset_key(name, "index") for name in settings.catalogs),
            *(_all_of(asset_key(name, "images")) for name in settings.catalogs),
            *(asset_key(name, "items") for name in settings.catalogs if settings.within),
            *inputs,
            *(asset_key(name, "encoder_evaluation") for name in evaluated),
        ],
        description=settings.description
        or f"Items of {', '.join(settings.catalogs)} that are connected by similar images, by "
        "group, with the similarities within the group.",
        metadata={
            "dagster/column_schema": table_schema(_columns(CROSS_CATALOG_GROUPS_COLUMNS, settings))
        },
        code_version=code_version(VERSION, settings.catalogs, group_settings),
        check_specs=_check_specs(key, settings, settings.checks),
    )
    @retry_faults
    def cross_catalog_groups(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.compute.tasks import use_compute
        from imgsim_assets.similarity.duplicate_groups import GroupStage

        refuse_failed_inputs(context)
        store = open_store(context)
        if reviews is not None:
            reviews.import_file(store, context.log)
        stage = GroupStage(
            store,
            settings.name,
            settings,
            catalogs=settings.catalogs,
            root=root,
            encoders=encoders,
            log=context.log.info,
        )
        with use_compute(settings.compute, context.log.info) as device:
            report = replace(stage.run(), device=str(device))
        return _result(store, stage.table, report, settings, settings, root)

    return cross_catalog_groups


def _columns(columns: Mapping[str, str], settings: LinkSettings) -> dict[str, str]:
    return {**columns, **(ORIENTATION if settings.orientations else {})}


def _all_of(images: dg.AssetKey) -> dg.AssetDep:
    """All images of a catalog: their size, or when they were fetched, decides who is canonical."""
    return dg.AssetDep(images, partition_mapping=dg.AllPartitionMapping())


def _result(
    store: "Store",
    table: "Table",
    report: "GroupReport",
    settings: CatalogSettings | DuplicateGroupsSettings,
    links: LinkSettings,
    root: Path,
) -> dg.MaterializeResult:
    from imgsim_assets.components.charts import group_sheet
    from imgsim_assets.components.evidence import (
        describe_evidence,
        describe_method,
        describe_turned,
    )
    from imgsim_assets.components.left_out import describe_left_out
    from imgsim_assets.components.metadata import linked_image, preview, table_metadata
    from imgsim_assets.pipeline import group_checks

    commit = table.at(report.version)
    rows = table.read(commit)
    metadata: dict[str, Any] = {
        **table_metadata(store, table.name, report, rows.height),
        "groups": report.groups,
        "grouped_items": report.grouped,
        "items": report.items,
        "images": report.images,
        **describe_threshold(report, finds_copies=True),
        **describe_evidence(report.evidence),
        **describe_turned(report.turned),
        **describe_method(report.recall, report.exact_seconds),
        "incremental": report.incremental,
        "device": report.device,
        "seconds": round(report.seconds, 3),
        "encoder": report.encoder,
        "encoder_fingerprint": report.fingerprint,
        **{f"judged_{verdict}": count for verdict, count in report.decisions.items()},
        "preview": preview(rows),
        **describe_left_out(store, report.left_out, report.shared, report.common),
    }
    if report.reopened.height:
        metadata["reopened_decisions"] = preview(report.reopened)
    if rows.height:
        sheet = group_sheet(store, rows)
        metadata["contact_sheet"] = linked_image(
            store, table.name, report.version, "groups.jpg", sheet
        )
    limits = settings.checks
    coherent = group_checks.groups_coherent(table, commit, limits)
    results = [
        *invariant_results(
            {ONE_CANONICAL_PER_GROUP: group_checks.one_canonical_per_group(rows)}, limits
        ),
        asset_check(
            GROUPS_COHERENT,
            coherent,
            severity=limits.severity,
            hint=threshold_hint(report, finds_copies=True),
        ),
        *recall_results(commit, links, limits),
    ]
    metadata |= export_table(store, table.name, report.version, settings.export, root, results)
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(report.data_version),
        check_results=results,
    )
