"""Dagster's daemon and web server for a project, and the GraphQL queries of its UI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets_tests.support.ports import free_port
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.projects import Project

T = TypeVar("T")

_HOME = """
concurrency:
  pools: {default_limit: 1, granularity: op}
run_coordinator:
  module: dagster._core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
run_monitoring:
  enabled: true
  poll_interval_seconds: 3
  start_timeout_seconds: 600
  free_slots_after_run_end_seconds: 2
  max_runtime_seconds: 600
run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}
auto_materialize: {minimum_interval_seconds: 3}
code_servers: {local_startup_timeout: 600}
telemetry: {enabled: false}
nux: {enabled: false}
"""
_WORKSPACE = "load_from:\n  - python_module: {{module_name: {0}.definitions, location_name: {0}}}\n"
_LAUNCH = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
_RETRY_FAILED = """mutation($params: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
_CANCEL = """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"""
_LAUNCH_RUN = """mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on InvalidSubsetError { message }
    ... on PythonError { message }
  }
}"""
_TERMINATE = """mutation($id: String!, $policy: TerminateRunPolicy!) {
  terminateRun(runId: $id, terminatePolicy: $policy) {
    __typename
    ... on TerminateRunFailure { message }
  }
}"""
_BACKFILL = """query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill {
      status
      partitionNames
      assetBackfillData {
        assetBackfillStatuses {
          ... on AssetPartitionsStatusCounts {
            assetKey { path } numPartitionsMaterialized numPartitionsFailed
          }
          ... on UnpartitionedAssetStatus { assetKey { path } materialized failed }
        }
      }
    }
  }
}"""
_BACKFILLS = """{ found: partitionBackfillsOrError {
  ... on PartitionBackfills { results { id } } } }"""
_SENSORS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { sensors {
  id sensorState { status } } } } } }"""
_STOP_SENSOR = """mutation($id: String!) { stopSensor(id: $id) { __typename } }"""
_RUNS = """query { runsOrError(limit: 200) { ... on Runs { results {
  runId status startTime endTime assetSelection { path } tags { key value } } } } }"""
_POOL = """query($name: String!) { instance { concurrencyLimit(concurrencyKey: $name) {
  slotCount claimedSlots { runId stepKey } pendingSteps { runId stepKey } } } }"""
_ENDED_RUN = {"SUCCESS", "FAILURE", "CANCELED"}
_ENDED = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "CANCELED", "FAILED", "COMPLETED"}


@dataclass
class Servers:
    """A daemon and a web server, each a process group that can be killed and started again.

    `home` is the text of their dagster.yaml.
    """

    project: Project
    environment: Mapping[str, str] = field(default_factory=dict)
    home: str = _HOME
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _orphaned_groups: list[int] = field(default_factory=list)
    _port: int = 0

    @property
    def url(self) -> str:
        """The URL of the web server."""
        return f"http://127.0.0.1:{self._port}"

    def prepare(self) -> None:
        """Write the configuration of the home, and the workspace."""
        (self.project.home / "dagster.yaml").write_text(self.home)
        self.project.write("workspace.yaml", _WORKSPACE.format(self.project.package))

    def start(self) -> None:
        self.prepare()
        try:
            self.start_web_server()
            self.start_daemon()
        except BaseException:
            self.stop()
            raise

    def start_daemon(self) -> None:
        self._start("daemon", "-m", "imgsim_assets_tests.support.fast_daemon", "run")

    def start_web_server(self) -> None:
        self._port = free_port()
        self._start("web", "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(self._port))
        self.wait_for(self._location_is_loaded, "the web server to load the location")

    def _start(self, name: str, *command: str) -> None:
        path = os.pathsep.join([str(self.project.root), str(Path(__file__).parents[2])])
        with (self.project.root / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command, "-w", "workspace.yaml"],
                cwd=self.project.root,
                env=self.project.environment(PYTHONPATH=path, **self.environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str, *, with_its_runs: bool = False) -> None:
        """Kill a server: alone, or with its code server and the runs that one started.

        Alone it leaves its code server behind, which ends by itself when its runs have ended.
        """
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            if with_its_runs:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
                self._orphaned_groups.append(process.pid)
        process.wait()

    def owns(self, process: int) -> bool:
        """Whether a process of a run still belongs to one of these servers."""
        groups = {server.pid for server in self._running.values()} | set(self._orphaned_groups)
        try:
            return os.getpgid(process) in groups
        except ProcessLookupError:
            return False

    def stop(self) -> None:
        for name in list(self._running):
            process = self._running[name]
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(timeout=20)
            self.kill(name, with_its_runs=True)
        for group in self._orphaned_groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def log(self) -> str:
        """The end of the servers' logs, for the message of a failed test."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-6000:]}"
            for path in sorted(self.project.root.glob("*.log"))
        )

    def wait_for(self, look: Callable[[], T | None], what: str, seconds: float = BUSY_S) -> T:
        """Poll `look` until it returns something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"waited {seconds:.0f} s for {what}\n{self.log()}")

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL response."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with open_loopback(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def _location_is_loaded(self) -> bool:
        try:
            found = self.ask(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
            )
        except OSError:
            return False
        return bool(found["repositoriesOrError"].get("nodes"))

    def launch(
        self,
        assets: Sequence[str],
        partitions: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launch a backfill as the UI does, of all partitions unless named; returns its id."""
        params: dict[str, Any] = {"assetSelection": [{"path": name.split("/")} for name in assets]}
        params |= {"allPartitions": True} if partitions is None else {"partitionNames": partitions}
        params["tags"] = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        return self._launched(self.ask(_LAUNCH, params=params)["launchPartitionBackfill"])

    def launch_run(self, asset: str) -> str:
        """Materialize an asset without partitions as the UI does; returns the id of the run."""
        selector = {
            "repositoryLocationName": self.project.package,
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": asset.split("/")}],
        }
        answer = self.ask(_LAUNCH_RUN, params={"selector": selector, "mode": "default"})
        assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
        return str(answer["launchRun"]["run"]["runId"])

    def terminate(self, run: str, *, at_once: bool = False) -> None:
        """Terminate a run as the UI does; `at_once` also where its worker does not answer."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if at_once else "SAFE_TERMINATE"
        answer = self.ask(_TERMINATE, id=run, policy=policy)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run_ended(self, run: str, seconds: float = BUSY_S) -> str:
        """Wait until a run has ended; returns its status."""

        def look() -> str | None:
            (status,) = (each["status"] for each in self.runs() if each["runId"] == run)
            return str(status) if status in _ENDED_RUN else None

        return self.wait_for(look, f"the end of run {run}", seconds)

    def retry_failed_runs(self, backfill: str) -> str:
        """Re-execute the failed part of a backfill; returns the id of the new one."""
        params = {"parentRunId": backfill, "strategy": "FROM_FAILURE"}
        return self._launched(self.ask(_RETRY_FAILED, params=params)["reexecutePartitionBackfill"])

    def _launched(self, answer: Mapping[str, Any]) -> str:
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def cancel(self, backfill: str) -> None:
        self.ask(_CANCEL, id=backfill)

    def backfills(self) -> list[str]:
        """The ids of all backfills, the newest first."""
        return [str(each["id"]) for each in self.ask(_BACKFILLS)["found"]["results"]]

    def backfill(self, backfill: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(_BACKFILL, id=backfill)["partitionBackfillOrError"]
        return found

    def ended(self, backfill: str, seconds: float = BUSY_S) -> str:
        """Wait until a backfill has ended; returns its status."""

        def look() -> str | None:
            status = str(self.backfill(backfill)["status"])
            return status if status in _ENDED else None

        return self.wait_for(look, f"the end of backfill {backfill}", seconds)

    def stop_sensors(self) -> None:
        """Stop all sensors, which would launch runs by themselves."""
        for repository in self.ask(_SENSORS)["repositoriesOrError"]["nodes"]:
            for sensor in repository["sensors"]:
                if sensor["sensorState"]["status"] == "RUNNING":
                    self.ask(_STOP_SENSOR, id=sensor["id"])

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        found: list[dict[str, Any]] = self.ask(_RUNS)["runsOrError"]["results"]
        return found

    def runs_of(self, backfill: str) -> list[dict[str, Any]]:
        """The runs that a backfill started."""
        tag = {"key": "dagster/backfill", "value": backfill}
        return [run for run in self.runs() if tag in run["tags"]]

    def retried_runs_of(self, backfill: str) -> list[dict[str, Any]]:
        """The runs that Dagster started because an earlier one of the backfill was lost."""
        return [
            run
            for run in self.runs_of(backfill)
            if any(tag["key"] == "dagster/retry_number" for tag in run["tags"])
        ]

    def pool(self, name: str) -> dict[str, Any]:
        """The slots of a pool, and the steps that claim them or wait for them."""
        found: dict[str, Any] = self.ask(_POOL, name=name)["instance"]["concurrencyLimit"]
        return found
