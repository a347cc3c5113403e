"""Inputs that people write, as external assets: observed by a digest, never materialized."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from imgsim_assets.components.load_warning import warn_of_missing
from imgsim_assets.components.store.resource import STORE, StoreResource

if TYPE_CHECKING:
    from imgsim_assets.storage.store import Store


def warn_if_missing(path: Path, what: str) -> None:
    """Say, when the code location loads, that a file is not there yet."""
    if not path.is_file():
        warn_of_missing(f"{what}: there is no file {str(path)!r}")


class Observation(NamedTuple):
    """What an input holds: its data version, and metadata."""

    version: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class ObservedInput:
    """An external asset, with a sensor that reports when its data version changes.

    Attributes:
        spec: the asset.
        look: what the input holds now.
        unchanged: why the sensor reports nothing.
        interval_s: seconds between two looks of the sensor.
    """

    spec: dg.AssetSpec
    look: Callable[[Callable[[], "Store"]], Observation]
    unchanged: str
    interval_s: int

    def asset(self) -> dg.AssetsDefinition:
        """The asset, which an observation looks at."""

        def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
            resource: StoreResource = getattr(context.resources, STORE)
            seen = self.look(lambda: resource.open(context.run.run_id))
            return dg.ObserveResult(
                asset_key=self.spec.key,
                data_version=dg.DataVersion(seen.version),
                metadata=seen.metadata,
            )

        observable = dg.multi_observable_source_asset(
            specs=[self.spec], name=self._name, required_resource_keys={STORE}
        )
        asset: dg.AssetsDefinition = observable(observe)
        return asset

    def sensor(self) -> dg.SensorDefinition:
        """Reports another data version to Dagster, which starts what is downstream."""

        def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
            resource: StoreResource = getattr(context.resources, STORE)
            seen = self.look(resource.open)
            if context.cursor == seen.version:
                return dg.SkipReason(self.unchanged)
            observation = dg.AssetObservation(
                self.spec.key,
                metadata=seen.metadata,
                tags={"dagster/data_version": seen.version},
            )
            return dg.SensorResult(asset_events=[observation], cursor=seen.version)

        return dg.SensorDefinition(
            name=f"{self._name}_sensor",
            evaluation_fn=tick,
            asset_selection=[self.spec.key],
            minimum_interval_seconds=self.interval_s,
            default_status=dg.DefaultSensorStatus.RUNNING,
            required_resource_keys={STORE},
            description=f"Observes {self.spec.key.to_user_string()} every {self.interval_s} s.",
        )

    @property
    def _name(self) -> str:
        return "__".join(self.spec.key.path)
