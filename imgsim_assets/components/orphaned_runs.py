"""Runs whose process has ended without telling Dagster."""

from __future__ import annotations

import os
import socket

import dagster as dg

_PROCESS_TAG = "imgsim/process"
_ACTIVE_STATUSES = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def process_tag() -> dict[str, str]:
    """The tag of runs of this process."""
    return {_PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}"}


def fail_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this machine as failed whose process has ended without reporting it.

    Dagster counts such a run as started, and its pool slots as taken, so that later runs would
    wait for them forever. Call this before the process starts a run of its own: a run with the
    id of this process was started by an earlier process that had the same id.

    Returns:
        The ids of the failed runs.
    """
    orphans = [
        record.dagster_run
        for record in instance.get_run_records(dg.RunsFilter(statuses=_ACTIVE_STATUSES))
        if _has_ended(record.dagster_run.tags.get(_PROCESS_TAG))
    ]
    for run in orphans:
        instance.report_run_failed(run, "the process of the run has ended")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in orphans]


def _has_ended(process_tag: str | None) -> bool:
    """Whether the process of a run is known to have ended."""
    host, _, process_id = (process_tag or "").rpartition("/")
    if host != socket.gethostname():
        return False
    if int(process_id) == os.getpid():
        return True
    try:
        os.kill(int(process_id), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
