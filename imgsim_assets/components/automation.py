"""Automation: the condition on data versions, and freshness policies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg

from imgsim_assets.components.cron import longest_gap

TAG = "imgsim/automation"
ON = "on"
_GRACE = timedelta(hours=2)


def on_new_data() -> dg.AutomationCondition:
    """Materialize when an upstream data version, or this asset's settings, changed.

    A materialization that changes nothing keeps its data version, and starts nothing. The
    condition waits for upstream runs, and does not hold while an upstream blocking check fails.
    """
    condition = dg.AutomationCondition
    upstream = condition.any_deps_match(
        condition.data_version_changed() | condition.will_be_requested()
    )
    changed = (upstream | condition.code_version_changed()).since_last_handled()  # type: ignore[misc]
    return (
        changed
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & condition.all_deps_blocking_checks_passed()
        & ~condition.in_progress()
    ).with_label("on_new_data")


def tagged(tags: Mapping[str, str], *, automated: bool) -> dict[str, str]:
    """An asset's tags, with the tag by which the sensor selects the assets it may start."""
    return {**tags, TAG: ON} if automated else dict(tags)


def freshness(schedule: str | None, time_zone: str) -> dg.FreshnessPolicy | None:
    """An asset is stale two hours after its schedule should have materialized it."""
    if schedule is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=longest_gap(schedule, time_zone) + _GRACE)
