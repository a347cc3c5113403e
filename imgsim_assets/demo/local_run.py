"""Materialize a whole project in this process, for the demo, tests and benchmarks."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from imgsim_assets.components.image_catalog.schedule import REFRESH
from imgsim_assets.progress import Log, silent

_RUN_CONFIG = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}
_PROCESS_TAG = "imgsim/process"
_ACTIVE_STATUSES = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class LocalRun:
    """Runs the jobs of a project one after the other in this process.

    Attributes:
        definitions: the project's definitions.
        instance: the Dagster instance that records the runs.
        log: receives a line for each run and each materialization.
    """

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    log: Log = silent

    def materialize_everything(self) -> bool:
        """Observe the sources, refresh every catalog, then materialize the remaining assets.

        A run that fails does not stop the later ones.

        Returns:
            Whether every run succeeded.
        """
        for run_id in fail_orphaned_runs(self.instance):
            self.log(f"run {run_id} is marked as failed: its process has ended")
        repository = self.definitions.get_repository_def()
        graph = repository.asset_graph
        everything = self.definitions.resolve_implicit_global_asset_job_def()
        succeeded = self._run("sources", everything, selection=graph.observable_asset_keys)
        remaining = set(graph.materializable_asset_keys)
        for job in repository.get_all_jobs():
            if job.name.endswith(REFRESH):
                succeeded &= self._run(job.name, job)
                remaining -= set(job.asset_layer.executable_asset_keys)
        if remaining:
            names = ", ".join(sorted(key.to_user_string() for key in remaining))
            succeeded &= self._run(names, everything, selection=remaining)
        return succeeded

    def _run(
        self,
        title: str,
        job: dg.JobDefinition,
        *,
        selection: Iterable[dg.AssetKey] | None = None,
    ) -> bool:
        self.log(f"\n== {title}")
        started = time.monotonic()
        result = job.execute_in_process(
            instance=self.instance,
            run_config=_RUN_CONFIG,
            asset_selection=sorted(selection) if selection is not None else None,
            tags={_PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}"},
            raise_on_error=False,
        )
        for event in result.get_asset_materialization_events():
            self.log(f"   {_format_event(event)}")
        outcome = "succeeded" if result.success else "FAILED"
        self.log(f"   {outcome} in {time.monotonic() - started:.1f} s")
        return result.success


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


def _format_event(event: dg.DagsterEvent) -> str:
    """A line about a materialization: asset, shard, rows, and whether anything changed."""
    materialization = event.step_materialization_data.materialization
    shard = f"[{materialization.partition}]" if materialization.partition else ""
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    changed = "changed" if metadata.get("changed") else "unchanged"
    name = materialization.asset_key.to_user_string()
    return f"{name}{shard}: {metadata.get('dagster/row_count')} rows, {changed}"
