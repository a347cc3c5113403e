"""Cron expressions: whether Dagster can run them, and how far apart their ticks are."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg

_FORMAT = "%Y-%m-%d-%H:%M"
_START = "2024-01-01-00:00"  # a Monday
_TWO_HOURS, _FIVE_WEEKS, _TWO_YEARS = "2024-01-01-02:00", "2024-02-05-00:00", "2026-01-01-00:00"


def cron_problem(cron: str) -> str | None:
    """What is wrong with a cron expression; None if Dagster can run it."""
    fields = cron.split()
    if len(fields) > 5:
        return f"has {len(fields)} fields; write minute, hour, day, month and weekday"
    if _can_run(cron):
        return None
    if len(fields) == 5 and _can_run(" ".join([*fields[:2], "*", *fields[3:]])):
        return "names a date that never occurs"
    return "is not a cron expression"


def latest_tick(cron: str, timezone: str) -> datetime | None:
    """The last time, at or before now, that a cron expression names."""
    partitions = dg.TimeWindowPartitionsDefinition(
        start=_START, fmt=_FORMAT, cron_schedule=cron, timezone=timezone
    )
    window = partitions.get_last_partition_window()
    return window.end if window is not None else None


def longest_gap(cron: str, timezone: str) -> timedelta:
    """The longest time between two ticks, over five weeks or, of rare ones, two years.

    A monthly or yearly tick is as far from the next one as in January.
    """
    minute, *rest = cron.split()
    if not rest or minute.isdecimal():
        return _longest_window(cron, timezone)
    # Ticks within an hour are looked at apart: all ticks of five weeks may be 50,000.
    within = f"{minute} * * * *"
    minutes = [int(tick[-2:]) for tick in _ticks(within, "UTC", _TWO_HOURS)]
    first, last = min(minutes), max(minutes)
    hourly = _longest_window(" ".join([str(first), *rest]), timezone)
    return max(
        hourly - timedelta(minutes=last - first), _longest_window(within, "UTC", end=_TWO_HOURS)
    )


def _longest_window(cron: str, timezone: str, end: str = _FIVE_WEEKS) -> timedelta:
    """The longest window of the partitions that begin at the ticks of a cron expression."""
    ticks = _ticks(cron, timezone, end) or _ticks(cron, timezone, _TWO_YEARS)
    partitions = _partitions(cron, timezone, _TWO_YEARS)
    windows = [partitions.time_window_for_partition_key(tick) for tick in ticks]
    return max((window.end - window.start for window in windows), default=timedelta())


def _ticks(cron: str, timezone: str, end: str) -> list[str]:
    return list(_partitions(cron, timezone, end).get_partition_keys())


def _partitions(cron: str, timezone: str, end: str) -> dg.TimeWindowPartitionsDefinition:
    return dg.TimeWindowPartitionsDefinition(
        start=_START, end=end, fmt=_FORMAT, cron_schedule=cron, timezone=timezone
    )


def _can_run(cron: str) -> bool:
    try:
        _ticks(cron, "UTC", _TWO_HOURS)
    except (dg.DagsterInvalidDefinitionError, ValueError):
        return False
    return True
