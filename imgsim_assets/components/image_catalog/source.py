"""The asset `source` of a catalog: an external asset, observed by the hash of its content."""

from collections.abc import Mapping

import dagster as dg

from imgsim_assets.components.image_catalog.context import CatalogContext

_HASHES = "hashes"


def source_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The source, which is observed and never materialized."""
    settings = catalog.settings.source
    spec = dg.AssetSpec(
        **catalog.asset_kwargs("source", ["file"]) | {"automation_condition": _condition(catalog)},
        description=f"`{settings.location}` as it is delivered. Observed by the hash of its "
        "content, never materialized.",
        metadata={"path": settings.location},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        return _observe(context, catalog)

    observable = dg.multi_observable_source_asset(specs=[spec], name=f"{catalog.name}__source")
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def _condition(catalog: CatalogContext) -> dg.AutomationCondition | None:
    settings = catalog.settings
    if settings.observe_schedule is None or not settings.automation:
        return None
    return dg.AutomationCondition.on_cron(settings.observe_schedule, settings.timezone)


def _observe(context: dg.AssetExecutionContext, catalog: CatalogContext) -> dg.ObserveResult:
    """Hash the source's files; those of unchanged size and time are not read again."""
    from imgsim_assets.catalog.source import open_source

    key = catalog.key("source")
    catalog.require_source()
    source = open_source(catalog.settings.source, catalog.root)
    fingerprint = source.fingerprint(_observed_hashes(context, key))
    return dg.ObserveResult(
        asset_key=key,
        data_version=dg.DataVersion(fingerprint.digest),
        metadata={
            "files": len(source.files),
            "bytes": sum(file.size for file in source.files),
            _HASHES: dg.MetadataValue.json(dict(fingerprint.hashes)),
        },
    )


def _observed_hashes(
    context: dg.AssetExecutionContext, key: dg.AssetKey
) -> Mapping[str, str] | None:
    """The file hashes of the last observation."""
    records = context.instance.fetch_observations(key, limit=1).records
    if not records or records[0].asset_observation is None:
        return None
    hashes = records[0].asset_observation.metadata.get(_HASHES)
    return hashes.value if isinstance(hashes, dg.JsonMetadataValue) else None  # type: ignore[return-value]
