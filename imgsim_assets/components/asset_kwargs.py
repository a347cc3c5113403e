"""Arguments that the decorators of several assets share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

import dagster as dg

from imgsim_assets.components.automation import on_new_data, tagged
from imgsim_assets.components.retries import RETRY_POLICY

# Pools whose limits keep runs from overloading the network, the GPU and the processors; see
# docs/schedule.md.
NETWORK_POOL = "network"
GPU_POOL = "gpu"
CPU_POOL = "cpu"


class AssetKwargs(TypedDict):
    """Arguments that the decorators of all assets share."""

    key: dg.AssetKey
    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]
    automation_condition: dg.AutomationCondition | None


class AssetSpecKwargs(AssetKwargs):
    """Arguments that describe an asset, whichever step materializes it."""

    deps: list[dg.AssetKey]
    description: str
    metadata: dict[str, Any]
    code_version: str


class AssetSettings(Protocol):
    """The settings of anything that a person declares in YAML."""

    @property
    def owners(self) -> Sequence[str]:
        """E-mail addresses or team:NAME."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of its assets."""

    @property
    def automation(self) -> bool:
        """Whether changes upstream materialize its assets."""


class StepKwargs(TypedDict):
    """Arguments of the step that materializes an asset without partitions."""

    backfill_policy: dg.BackfillPolicy
    retry_policy: dg.RetryPolicy


# Dagster's command line takes a range of partitions only if all selected assets have this policy.
STEP_KWARGS: StepKwargs = {
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "retry_policy": RETRY_POLICY,
}


def asset_kwargs(
    key: dg.AssetKey, group_name: str, settings: AssetSettings, kinds: Iterable[str]
) -> AssetKwargs:
    """The shared arguments of an asset."""
    return {
        "key": key,
        "group_name": group_name,
        "owners": list(settings.owners),
        "tags": tagged(settings.tags, automated=settings.automation),
        "kinds": set(kinds),
        "automation_condition": on_new_data() if settings.automation else None,
    }


def code_version(version: str, *settings: Any) -> str:
    """A code version that changes with the asset's code and with the settings it depends on."""
    if not settings:
        return version
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"{version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
