"""Tasks on a Ray cluster, whose workers and nodes are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.compute import ray as ray_runner
from imgsim_assets.compute.ray import RayRunner
from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import run_tasks, use_compute
from imgsim_assets.errors import ComputeError, StoreError
from imgsim_assets.similarity.evidence.compare_pairs import evidence_for
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import compute_tasks
from imgsim_assets_tests.support.compute_tasks import (
    RELEASE,
    die,
    fail,
    process_of,
    square,
    wait_for_release,
)
from imgsim_assets_tests.support.ray_cluster import RayCluster
from imgsim_assets_tests.support.scenes import jpeg, png, scene

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_RAY = ComputeSettings(engine="ray")
_KIND = TaskKind("tests")
_TIMEOUT_S = 120.0


@pytest.fixture(params=["node", "client"])
def address(cluster: RayCluster, request: pytest.FixtureRequest) -> str:
    """The address of the cluster, on a machine of it and elsewhere."""
    return cluster.address if request.param == "node" else cluster.client_address


@pytest.fixture
def runner(address: str) -> RayRunner:
    return RayRunner(address, _RAY)


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _started(folder: Path, *tasks: int) -> dict[int, int]:
    """The processes that run some waiting tasks."""
    found: dict[int, int] = {}

    def all_run() -> bool:
        found.update(
            {int(path.stem): int(path.suffix[1:]) for path in folder.iterdir() if path.suffix}
        )
        return found.keys() >= set(tasks)

    _await(all_run, f"of the tasks {tasks}, only {sorted(found)} were started")
    return found


def _is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    return False


def _collect(results: Iterator[int], found: list[int]) -> threading.Thread:
    """A thread that takes the results, while the test does something to their tasks."""
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    return thread


def test_results_come_in_the_order_of_the_tasks(runner: RayRunner) -> None:
    assert list(runner.map(square, range(20), _KIND)) == [number**2 for number in range(20)]


def test_tasks_run_in_processes_of_their_own_on_both_nodes(
    runner: RayRunner, tmp_path: Path
) -> None:
    results = runner.map(partial(wait_for_release, tmp_path), [0, 1, 2], _KIND)

    assert next(results) == 0
    processes = _started(tmp_path, 1, 2)
    (tmp_path / RELEASE).touch()

    assert list(results) == [1, 2]
    assert len({os.getpid(), processes[1], processes[2]}) == 3


def test_worker_is_reused(runner: RayRunner) -> None:
    assert len(set(runner.map(process_of, range(20), _KIND))) <= 4


def test_error_of_a_task_is_raised_as_it_was(runner: RayRunner) -> None:
    with pytest.raises(StoreError, match=r"^task 7 found no file$"):
        list(runner.map(fail, [7], _KIND))


def test_task_of_a_killed_worker_is_run_again(runner: RayRunner, tmp_path: Path) -> None:
    found: list[int] = []
    results = runner.map(partial(wait_for_release, tmp_path), [1, 2], _KIND)
    thread = _collect(results, found)
    first = _started(tmp_path, 1, 2)[1]

    os.kill(first, signal.SIGKILL)
    _await(lambda: len(list(tmp_path.glob("1.*"))) == 2, "the task was not run again")
    (tmp_path / RELEASE).touch()
    thread.join()

    assert found == [1, 2]


def test_tasks_of_a_killed_node_are_run_again(mortal_cluster: RayCluster, tmp_path: Path) -> None:
    runner, found = RayRunner(mortal_cluster.address, _RAY), list[int]()
    results = runner.map(partial(wait_for_release, tmp_path), [1, 2, 3, 4], _KIND)
    thread = _collect(results, found)
    _await(lambda: len(list(tmp_path.iterdir())) >= 2, "two tasks were not started")

    mortal_cluster.kill_node(2)
    (tmp_path / RELEASE).touch()
    thread.join()

    assert found == [1, 2, 3, 4]


def test_task_that_is_lost_again_and_again_is_one_message(address: str) -> None:
    runner = RayRunner(address, ComputeSettings(engine="ray", retries=1))

    with pytest.raises(ComputeError, match="tests: a task was lost 2 times with its worker"):
        list(runner.map(die, [1], _KIND))


def test_leaving_the_context_kills_the_workers_of_running_tasks(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", address)

    with use_compute(_RAY):
        work = partial(wait_for_release, tmp_path)
        results = run_tasks(work, [0, 1], "waiting")
        assert next(results) == 0
        process = _started(tmp_path, 1)[1]

    assert not _is_alive(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_process_stops_its_tasks(
    address: str, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", compute_tasks.__name__, address, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        workers = _started(tmp_path, 1, 2)

        process.send_signal(number)
        process.wait(_TIMEOUT_S)

    _await(lambda: not any(map(_is_alive, workers.values())), "a task still runs")


def test_handler_of_sigterm_stays(runner: RayRunner) -> None:
    before = signal.getsignal(signal.SIGTERM)

    list(runner.map(square, [1], _KIND))

    assert signal.getsignal(signal.SIGTERM) is before


def test_connection_that_a_busy_head_node_aborts_is_tried_again(
    runner: RayRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    connect, aborted = ray.init, list[str]()

    def abort_twice(address: str, **options: object) -> object:
        if len(aborted) < 2:
            aborted.append(address)
            raise ConnectionAbortedError("Initialization failure from server:")
        return connect(address, **options)

    monkeypatch.setattr(ray, "init", abort_twice)

    assert list(runner.map(square, [3], _KIND)) == [9]
    assert len(aborted) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:1"])
def test_cluster_that_cannot_be_reached_is_one_message(address: str) -> None:
    runner = RayRunner(address, _RAY)

    with pytest.raises(ComputeError, match=f"no Ray cluster can be reached at '{address}'") as told:
        list(runner.map(square, [1], _KIND))

    assert "set the variable to host:6379 on a machine of the cluster" in str(told.value)


def test_task_that_no_node_can_run_says_what_it_waits_for(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    def stop(line: str) -> None:
        raise EnoughError(line)

    monkeypatch.setattr(ray_runner, "_STALLED_POLLS", 1)
    runner = RayRunner(address, ComputeSettings(engine="ray", gpus_per_task=1), stop)

    with pytest.raises(EnoughError, match="waiting for a node with 1 CPUs, 1 GPUs"):
        list(runner.map(square, [1], TaskKind("tests", uses_gpu=True)))


def test_evidence_equals_that_of_one_machine(
    store: Store, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [encode(scene(seed)) for seed in range(8) for encode in (png, jpeg)]
    names = store.blobs.put_many(images)
    store.blobs.flush()
    other = Store.open(f"{store.url}-other")
    other.blobs.put_many(images)
    other.blobs.flush()
    pairs = pl.DataFrame(
        [(a, b) for at, a in enumerate(names) for b in names[:at]],
        schema=["left_sha256", "right_sha256"],
        orient="row",
    )
    expected = evidence_for(other, pairs)
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    for name in ("_MIN_PAIRS", "_MIN_IMAGES"):
        monkeypatch.setattr(f"imgsim_assets.similarity.evidence.compare_pairs.{name}", 2)

    with use_compute(_RAY):
        found = evidence_for(store, pairs)

    assert found.pairs.equals(expected.pairs)
    assert (found.compared, found.images) == (expected.compared, expected.images)
    assert evidence_for(store, pairs).images == 0, "the features were committed"


def test_lost_image_is_reported_by_the_worker(
    store: Store, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = store.blobs.put_many([png(scene(1))])
    store.blobs.flush()
    pairs = pl.DataFrame({"left_sha256": [name], "right_sha256": ["f" * 64]})
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)

    with use_compute(_RAY), pytest.raises(StoreError, match="bytes of 1 image: image ffff"):
        evidence_for(store, pairs)

    assert store.blobs.missing() == {"f" * 64}
