"""Automation: the condition on data versions, its sensor, and freshness policies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
from dagster._utils.schedules import cron_string_iterator

TAG = "imgsim/automation"
_ON = "on"
_SENSOR = "imgsim_automation"
# Long enough to hold the longest gap of nightly, weekly and monthly schedules.
_FIVE_WEEKS = timedelta(weeks=5)
_ANY_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
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
    return {**tags, TAG: _ON} if automated else dict(tags)


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of every catalog and match table.

    One sensor for all, so that dependent assets are started in one run.
    """
    with warnings.catch_warnings():
        # The selection must include the sources, and that option is beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        target = dg.AssetSelection.tag(TAG, _ON, include_sources=True)
    return dg.AutomationConditionSensorDefinition(
        _SENSOR,
        target=target,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        description="Observes the sources on their schedules, and materializes assets whose "
        "upstream data changed.",
    )


def freshness(schedule: str | None, time_zone: str) -> dg.FreshnessPolicy | None:
    """An asset is stale two hours after its schedule should have materialized it."""
    if schedule is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=_longest_gap(schedule, time_zone) + _GRACE)


def _longest_gap(schedule: str, time_zone: str) -> timedelta:
    """The longest time between two ticks within five weeks."""
    ticks = pairwise(cron_string_iterator(_ANY_MONDAY.timestamp(), schedule, time_zone))
    longest = timedelta()
    for earlier, later in ticks:
        longest = max(longest, later - earlier)
        if later - _ANY_MONDAY > _FIVE_WEEKS:
            break
    return longest
