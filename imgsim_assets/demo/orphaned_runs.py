"""Runs in this machine's processes that ended without saying so, as a kill or a crash does.

Dagster keeps such a run as started, and with it the slots it holds in pools: two of them on a
pool of two, and every later run waits for ever.
"""

from __future__ import annotations

import os
import socket

import dagster as dg

_TAG = "imgsim/process"
_UNDER_WAY = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def process_tags() -> dict[str, str]:
    """The run tags by which a later process finds out whether this one is still there."""
    return {_TAG: f"{socket.gethostname()}/{os.getpid()}"}


def fail_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Fail the runs whose process is gone, free their slots, and return their ids.

    To be called before this process starts a run of its own: a run under its own process id is
    one of an earlier process of the same number.
    """
    lost = [
        record.dagster_run
        for record in instance.get_run_records(dg.RunsFilter(statuses=_UNDER_WAY))
        if _is_lost(record.dagster_run.tags.get(_TAG))
    ]
    for run in lost:
        instance.report_run_failed(run, "its process is gone")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in lost]


def _is_lost(tag: str | None) -> bool:
    host, _, process = (tag or "").rpartition("/")
    if host != socket.gethostname():
        return False
    if int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
