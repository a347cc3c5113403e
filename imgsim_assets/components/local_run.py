"""Run a project's assets in this process: observe the sources, then refresh what has changed."""

from __future__ import annotations

import difflib
import functools
import operator
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from imgsim_assets.components.audits import AUDIT
from imgsim_assets.components.image_catalog.schedule import REFRESH
from imgsim_assets.components.load_project import load_project
from imgsim_assets.components.orphaned_runs import fail_orphaned_runs, process_tag
from imgsim_assets.components.run_log import LOGGER, failure_messages, progress_logger
from imgsim_assets.components.store.resource import STORE, StoreResource
from imgsim_assets.components.sync import Sync
from imgsim_assets.components.tables import table_name
from imgsim_assets.errors import SettingsError
from imgsim_assets.progress import Log, silent

_RUN = "imgsim_run"
_SOURCES = f"{_RUN}__sources"
# Groups of tables of several catalogs; a table may be named without its group.
_TABLE_GROUPS = ("matches", "duplicate_groups")


@dataclass
class LocalRunReport:
    """What a local run did.

    Attributes:
        up_to_date: names of the catalogs and assets that needed no run.
        failed: what failed and why, by the name of a catalog or asset.
        skipped: names of assets that were not run, because an upstream one failed.
    """

    up_to_date: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def problems(self) -> list[str]:
        """One message for each catalog and asset that failed, and one about what was skipped."""
        messages = [f"{name} failed: {problem}" for name, problem in self.failed.items()]
        if self.skipped:
            messages.append(f"not run for that reason: {', '.join(self.skipped)}")
        return messages


def run_project(
    root: Path, names: Sequence[str] = (), *, everything: bool = False, log: Log = silent
) -> LocalRunReport:
    """Run the project at `root`, and record the runs in DAGSTER_HOME; see `LocalRun.run`.

    Without DAGSTER_HOME, the runs are recorded in data/dagster_home of the project.

    Raises:
        SettingsError: there is no project, or it cannot be loaded, or has nothing of a name.
    """
    definitions = load_project(root)
    if not os.environ.get("DAGSTER_HOME"):
        home = root / "data" / "dagster_home"
        try:
            home.mkdir(parents=True, exist_ok=True)
            if not (home / "dagster.yaml").exists():
                (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        except OSError as error:
            raise SettingsError(
                f"DAGSTER_HOME is not set, and {home} cannot be created ({error}); set it"
            ) from error
        os.environ["DAGSTER_HOME"] = str(home)
        log(f"DAGSTER_HOME is not set; the runs are recorded in {home}")
    with dg.DagsterInstance.get() as instance:
        return LocalRun(definitions, instance, log).run(names, everything=everything)


@dataclass(frozen=True)
class LocalRun:
    """Runs a project's assets in this process, one run after the other.

    Attributes:
        definitions: the project's definitions.
        instance: the Dagster instance that records the runs.
        log: receives a line for each run, each materialization and the progress of long steps.
    """

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    log: Log = silent

    def run(self, names: Sequence[str] = (), *, everything: bool = False) -> LocalRunReport:
        """Bring catalogs and tables up to date. What fails does not stop what is independent.

        Args:
            names: catalogs, match tables and groups, which are run with the catalogs that they
                need; default: all assets of the project that have no partitions of their own.
            everything: run also what is up to date.

        Raises:
            SettingsError: when the project has nothing of one of the names.
        """
        for run_id in fail_orphaned_runs(self.instance):
            self.log(f"run {run_id} is marked as failed: its process has ended")
        definitions = dg.Definitions.merge(
            self.definitions,
            dg.Definitions(jobs=self._jobs(), loggers={LOGGER: progress_logger(self.log)}),
        )
        sync = None if everything else self._open_sync()
        return _Session(definitions, self.instance, self.log, sync).run(names)

    def _jobs(self) -> list[Any]:
        """A job over the sources, and one for each asset outside of the catalogs.

        None of them evaluates audits, which read whole tables.
        """
        graph = self.definitions.resolve_asset_graph()
        selections = {_SOURCES: dg.AssetSelection.assets(*graph.observable_asset_keys)}
        for key in graph.materializable_asset_keys:
            selections[_job_name(key)] = dg.AssetSelection.assets(key)
        audits = [
            getattr(job, "selection")  # noqa: B009 - the type of asset jobs is not exported
            for job in self.definitions.jobs or ()
            if job.name.endswith(AUDIT)
        ]
        return [
            dg.define_asset_job(
                name,
                selection=functools.reduce(operator.sub, audits, selection),
                executor_def=dg.in_process_executor,
            )
            for name, selection in selections.items()
        ]

    def _open_sync(self) -> Sync:
        resource = (self.definitions.resources or {}).get(STORE) or StoreResource()
        with dg.build_resources({STORE: resource}) as resources:
            return Sync(self.definitions, self.instance, getattr(resources, STORE).open())


class _Session:
    """One call of `LocalRun.run`."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        log: Log,
        sync: Sync | None,
    ) -> None:
        self._instance = instance
        self._log = log
        repository = definitions.get_repository_def()
        self._graph = repository.asset_graph
        self._key_of_table = {
            table_name(key, self._graph.get(key).metadata): key
            for key in self._graph.get_all_asset_keys()
        }
        self._get_job = repository.get_job
        self._catalogs = {
            name.removesuffix(REFRESH): repository.get_job(name)
            for name in repository.job_names
            if name.endswith(REFRESH)
        }
        self._sync = sync
        self._report = LocalRunReport()

    def run(self, names: Sequence[str]) -> LocalRunReport:
        catalogs, tables = self._selected(names)
        self._observe(catalogs, tables)
        for name in catalogs:
            job = self._catalogs[name]
            if self._sync and self._sync.is_catalog_up_to_date(name, _keys(job)):
                self._skip_up_to_date(name)
            elif name not in self._report.failed:
                self._execute(job, name)
        for key in tables:
            self._run_table(key)
        return self._report

    def _selected(self, names: Sequence[str]) -> tuple[list[str], list[dg.AssetKey]]:
        """The catalogs, and the other assets in topological order."""
        of_catalogs = {key for job in self._catalogs.values() for key in _keys(job)}
        others = [
            key
            for key in self._graph.toposorted_asset_keys
            if key in self._graph.materializable_asset_keys
            and key not in of_catalogs
            and not self._graph.get(key).is_partitioned
        ]
        if not names:
            return sorted(self._catalogs), others
        wanted = {key for name in names for key in self._keys_named(name, others)}
        needed = dg.AssetSelection.assets(*wanted).upstream().resolve(self._graph)
        catalogs = [name for name, job in self._catalogs.items() if needed & _keys(job)]
        return sorted(catalogs), [key for key in others if key in needed]

    def _keys_named(self, name: str, others: Collection[dg.AssetKey]) -> Iterable[dg.AssetKey]:
        if name in self._catalogs:
            return _keys(self._catalogs[name])
        candidates = [name.split("/"), *([group, name] for group in _TABLE_GROUPS)]
        tables = ["/".join(path) for path in candidates]
        keys = [self._key_of_table.get(table, dg.AssetKey(table.split("/"))) for table in tables]
        found = [key for key in keys if key in others]
        if found:
            return found
        known = [*sorted(self._catalogs), *(key.to_user_string() for key in others)]
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]!r}? " if similar else ""
        raise SettingsError(
            f"the project declares no catalog, match table or groups {name!r}; {hint}declared "
            f"are {', '.join(known) or 'none'}"
        )

    def _observe(self, catalogs: Sequence[str], tables: Sequence[dg.AssetKey]) -> None:
        """Observe sources, lists and reviews; a failure is that of its catalog or table."""
        keys = {key for name in catalogs for key in _keys(self._catalogs[name])} | {*tables}
        parents = {parent for key in keys for parent in self._graph.get(key).parent_keys}
        selection = sorted(parents & self._graph.observable_asset_keys)
        if not selection:
            return
        result = self._execute_in_process(self._get_job(_SOURCES), selection)
        for source, message in failure_messages(result).items():
            self._report.failed[source.removesuffix("/source")] = f"{source}: {message}"
            self._log(f"{source}: FAILED")
        if self._sync:
            self._sync.take_observations(result)

    def _run_table(self, key: dg.AssetKey) -> None:
        name = key.to_user_string()
        failed = [other for other in self._upstream(key) if other in self._report.failed]
        if failed:
            self._report.skipped.append(name)
            self._log(f"{name}: not run, because {', '.join(failed)} failed")
        elif self._sync and self._sync.is_up_to_date(key):
            self._skip_up_to_date(name)
        else:
            self._execute(self._get_job(_job_name(key)), name)

    def _upstream(self, key: dg.AssetKey) -> list[str]:
        """The names of the catalogs and other assets that an asset depends on."""
        keys = dg.AssetSelection.assets(key).upstream(include_self=False).resolve(self._graph)
        of_catalogs = [name for name, job in self._catalogs.items() if keys & _keys(job)]
        return sorted({*of_catalogs, *(each.to_user_string() for each in keys)})

    def _skip_up_to_date(self, name: str) -> None:
        self._report.up_to_date.append(name)
        self._log(f"{name}: up to date")

    def _execute(self, job: dg.JobDefinition, name: str) -> None:
        self._log(f"{name}: running")
        started = time.monotonic()
        result = self._execute_in_process(job)
        seconds = time.monotonic() - started
        if result.success:
            self._log(f"{name}: succeeded in {seconds:.1f} s")
            return
        messages = [f"{step}: {message}" for step, message in failure_messages(result).items()]
        self._report.failed[name] = "; ".join(messages) or f"run {result.run_id} failed"
        self._log(f"{name}: FAILED after {seconds:.1f} s")

    def _execute_in_process(
        self, job: dg.JobDefinition, selection: Sequence[dg.AssetKey] | None = None
    ) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=self._instance,
            run_config={"loggers": {LOGGER: {}}},
            asset_selection=selection,
            tags=process_tag(),
            raise_on_error=False,
        )


def _job_name(key: dg.AssetKey) -> str:
    return "__".join([_RUN, *key.path]).replace("-", "_")


def _keys(job: dg.JobDefinition) -> set[dg.AssetKey]:
    return set(job.asset_layer.executable_asset_keys)
