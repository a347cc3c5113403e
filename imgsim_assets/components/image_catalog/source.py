"""The asset `source` of a catalog: an external asset, observed by the hash of its content."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.cron import latest_tick
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.image_catalog.schedule import CATALOG_TAG

if TYPE_CHECKING:
    from imgsim_assets.catalog.source import Source

_HASHES = "hashes"


def source_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The source, which is observed and never materialized."""
    settings = catalog.settings.source
    spec = dg.AssetSpec(
        **catalog.asset_kwargs("source", ["file"]) | {"automation_condition": None},
        description=f"`{settings.location}` as it is delivered. Observed by the hash of its "
        "content, never materialized.",
        metadata={"path": settings.location},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        return _observe(context, catalog)

    observable = dg.multi_observable_source_asset(specs=[spec], name=f"{catalog.name}__source")
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def source_sensors(catalog: CatalogContext) -> list[dg.SensorDefinition]:
    """The sensor that observes the source at its `observe_schedule`, if there is one.

    It launches a run only to hash a file whose size or time has changed, or to run a query.
    """
    settings = catalog.settings
    if settings.observe_schedule is None or not settings.automation:
        return []
    cron, timezone, key = settings.observe_schedule, settings.timezone, catalog.key("source")

    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        tick = latest_tick(cron, timezone)
        cursor = tick.isoformat() if tick is not None else ""
        if context.cursor == cursor:
            return dg.SkipReason(f"observed at {cursor}; the next time is that of {cron!r}")
        hashes = _observed_hashes(context.instance, key)
        source = _open_source(catalog)
        if source.must_read(hashes):
            request = dg.RunRequest(
                run_key=f"{catalog.name} {cursor}",
                asset_selection=[key],
                tags={CATALOG_TAG: catalog.name},
            )
            return dg.SensorResult(run_requests=[request], cursor=cursor)
        version, metadata = _fingerprint(source, hashes)
        observation = dg.AssetObservation(
            key, metadata=metadata, tags={"dagster/data_version": version}
        )
        return dg.SensorResult(asset_events=[observation], cursor=cursor)

    sensor = dg.SensorDefinition(
        name=f"{catalog.name}_source_sensor",
        evaluation_fn=look,
        asset_selection=[key],
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes {key.to_user_string()} at {cron!r} ({timezone}).",
    )
    return [sensor]


def _observe(context: dg.AssetExecutionContext, catalog: CatalogContext) -> dg.ObserveResult:
    """Hash the source's files; those of unchanged size and time are not read again."""
    key = catalog.key("source")
    version, metadata = _fingerprint(_open_source(catalog), _observed_hashes(context.instance, key))
    return dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(version), metadata=metadata)


def _open_source(catalog: CatalogContext) -> "Source":
    from imgsim_assets.catalog.source import open_source

    catalog.require_source()
    return open_source(catalog.settings.source, catalog.root)


def _fingerprint(source: "Source", hashes: Mapping[str, str] | None) -> tuple[str, dict[str, Any]]:
    """The data version of a source, and the metadata of its observation."""
    fingerprint = source.fingerprint(hashes)
    return fingerprint.digest, {
        "files": len(source.files),
        "bytes": sum(file.size for file in source.files),
        _HASHES: dg.MetadataValue.json(dict(fingerprint.hashes)),
    }


def _observed_hashes(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, str] | None:
    """The file hashes of the last observation."""
    records = instance.fetch_observations(key, limit=1).records
    if not records or records[0].asset_observation is None:
        return None
    hashes = records[0].asset_observation.metadata.get(_HASHES)
    return hashes.value if isinstance(hashes, dg.JsonMetadataValue) else None  # type: ignore[return-value]
