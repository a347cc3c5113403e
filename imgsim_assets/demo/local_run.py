"""Materializing a whole project in this process, for demos, tests and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

from imgsim_assets.components.image_catalog.schedule import REFRESH, whole_catalog_tags
from imgsim_assets.demo.orphaned_runs import fail_orphaned_runs, process_tags
from imgsim_assets.progress import Log, silent

_QUIET = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


@dataclass(frozen=True)
class LocalRun:
    """Runs jobs of a project one after the other; `log` hears what they materialize."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    log: Log = silent

    def materialize_everything(self) -> bool:
        """Observe the sources, refresh every catalog, then materialize what lies behind.

        Returns whether every run succeeded; one that fails does not keep the others.
        """
        for run_id in fail_orphaned_runs(self.instance):
            self.log(f"run {run_id} had lost its process; it is failed, and its work goes on here")
        repository = self.definitions.get_repository_def()
        graph = repository.asset_graph
        everything = self.definitions.resolve_implicit_global_asset_job_def()
        succeeded = self._run("sources", everything, selection=graph.observable_asset_keys)
        remaining = set(graph.materializable_asset_keys)
        for job in repository.get_all_jobs():
            if job.name.endswith(REFRESH):
                succeeded &= self._run(job.name, job, tags=whole_catalog_tags(job.partitions_def))
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
        tags: Mapping[str, str] | None = None,
    ) -> bool:
        self.log(f"\n== {title}")
        started = time.monotonic()
        result = job.execute_in_process(
            instance=self.instance,
            run_config=_QUIET,
            asset_selection=sorted(selection) if selection is not None else None,
            tags=process_tags() | dict(tags or {}),
            raise_on_error=False,
        )
        for event in result.get_asset_materialization_events():
            self.log(f"   {_format_event(event)}")
        outcome = "done" if result.success else "FAILED"
        self.log(f"   {outcome} in {time.monotonic() - started:.1f} s")
        return result.success


def _format_event(event: dg.DagsterEvent) -> str:
    """One line about a materialization: asset, shard, rows, and whether anything changed."""
    materialization = event.step_materialization_data.materialization
    shard = f"[{materialization.partition}]" if materialization.partition else ""
    facts = {name: value.value for name, value in materialization.metadata.items()}
    changed = "changed" if facts.get("changed") else "unchanged"
    name = materialization.asset_key.to_user_string()
    return f"{name}{shard}: {facts.get('dagster/row_count')} rows, {changed}"
