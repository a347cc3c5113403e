"""What starts work by itself: conditions on data versions, their sensor, cron, freshness."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
from dagster._utils.schedules import cron_string_iterator

TAG = "imgsim/automation"
_ON = "on"
_SENSOR = "imgsim_automation"
# Nights, weekends and the first of the month: five weeks show the gaps of what ticks in them.
_FIVE_WEEKS = timedelta(weeks=5)
_SOME_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_GRACE = timedelta(hours=2)


def on_new_data() -> dg.AutomationCondition:
    """Start when something upstream has another data version, or this asset other settings.

    A materialization that found nothing new keeps its data version, and starts nothing. Waits
    for upstream runs, and never starts behind a blocking check that failed.
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


def tagged(tags: dict[str, str], *, automated: bool) -> dict[str, str]:
    """An asset's tags, with the one by which the sensor finds what it may start."""
    return {**tags, TAG: _ON} if automated else tags


def sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of every catalog and match table.

    One for all, so that what hangs together is started together.
    """
    with warnings.catch_warnings():
        # Without its sources a catalog would never be looked at, and the option is beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        target = dg.AssetSelection.tag(TAG, _ON, include_sources=True)
    return dg.AutomationConditionSensorDefinition(
        _SENSOR,
        target=target,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        description="Looks at the sources that are watched, and starts what hangs on data that "
        "changed.",
    )


def freshness(schedule: str | None, time_zone: str) -> dg.FreshnessPolicy | None:
    """Stale is what the schedule should have materialized two hours ago."""
    if schedule is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=_longest_gap(schedule, time_zone) + _GRACE)


def _longest_gap(schedule: str, time_zone: str) -> timedelta:
    """The longest time between two ticks, among those of five weeks and the next."""
    ticks = pairwise(cron_string_iterator(_SOME_MONDAY.timestamp(), schedule, time_zone))
    longest = timedelta()
    for earlier, later in ticks:
        longest = max(longest, later - earlier)
        if later - _SOME_MONDAY > _FIVE_WEEKS:
            break
    return longest
