"""The component `imgsim_assets.AutomationComponent`: the sensor that starts what changed."""

from __future__ import annotations

import warnings
from typing import ClassVar

import dagster as dg

from imgsim_assets.components.automation import ON, TAG
from imgsim_assets.components.automation_sensor.scaffolder import AutomationScaffolder
from imgsim_assets.components.base import YamlComponent
from imgsim_assets.pipeline.settings import AutomationSettings
from imgsim_assets.settings import Settings


@dg.scaffold_with(AutomationScaffolder)
class AutomationComponent(YamlComponent):
    """One sensor that evaluates the conditions of all catalogs and match tables.

    One for all, so that dependent assets start in one run. A project with an automation sensor of
    its own leaves this component out.
    """

    settings_type: ClassVar[type[Settings]] = AutomationSettings

    @property
    def settings(self) -> AutomationSettings:
        """The sensor as declared."""
        settings: AutomationSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The sensor over every asset with `automation: true`, sources included."""
        self.check_alone(context, "an AutomationComponent")
        with warnings.catch_warnings():
            # The selection must include the sources, and that option is beta.
            warnings.simplefilter("ignore", dg.BetaWarning)
            target = dg.AssetSelection.tag(TAG, ON, include_sources=True)
        sensor = dg.AutomationConditionSensorDefinition(
            self.settings.name,
            target=target,
            default_status=dg.DefaultSensorStatus[self.settings.default_status.upper()],
            minimum_interval_seconds=self.settings.interval_s,
            description="Observes the sources on their schedules, and materializes assets whose "
            "upstream data changed.",
        )
        return dg.Definitions(sensors=[sensor])
