"""The list of ignored images of a result: an external asset, observed by what it names."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from imgsim_assets.similarity.settings import IgnoreSettings

IGNORE_LIST = "ignore_list"
_INTERVAL_S = 60


def ignore_list_asset(
    key: dg.AssetKey, group: str, settings: IgnoreSettings, root: Path
) -> dg.AssetsDefinition:
    """The list, which is observed and never materialized."""
    spec = dg.AssetSpec(
        key,
        group_name=group,
        kinds={"file"},
        description=f"`{settings.list}`: images that are left out of a comparison. Observed by the "
        "images that it names, never materialized.",
        metadata={"path": settings.list},
    )

    def observe() -> dg.ObserveResult:
        return dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(_digest(settings, root)))

    observable = dg.multi_observable_source_asset(specs=[spec], name="__".join(key.path))
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def ignore_list_sensor(
    key: dg.AssetKey, settings: IgnoreSettings, root: Path
) -> dg.SensorDefinition:
    """Observes the list when it names other images; no run is launched."""

    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        digest = _digest(settings, root)
        if context.cursor == digest:
            return dg.SkipReason(f"{settings.list} names the same images")
        observation = dg.AssetObservation(key, tags={"dagster/data_version": digest})
        return dg.SensorResult(asset_events=[observation], cursor=digest)

    return dg.SensorDefinition(
        name=f"{'__'.join(key.path)}_sensor",
        evaluation_fn=look,
        asset_selection=[key],
        minimum_interval_seconds=_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes {key.to_user_string()} when it names other images.",
    )


def _digest(settings: IgnoreSettings, root: Path) -> str:
    from imgsim_assets.similarity.ignored import read_ignore_list

    return read_ignore_list(settings.list, root).digest
