"""Runs, servers and homes that are lost in the middle of a backfill, with the real daemon."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop, versions

IMAGES = "products/images"
EVERYTHING = [
    "products/items",
    IMAGES,
    "products/embeddings",
    "products/index",
    "products/similarity_graph",
    "matches/pair",
]

pytestmark = pytest.mark.slow


def test_run_killed_while_fetching_is_retried_and_fetches_the_rest(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    for number in range(40):
        shop.put_item(f"lost{number}", 300 + number)
    pages = shop.slow_down(1.0)
    before = shop.web.total_gets
    backfill = dagster.launch(EVERYTHING)
    dagster.wait_for(lambda: shop.web.total_gets > before + 4, "the first downloads")
    time.sleep(6)  # downloads are committed every five seconds

    _kill_run(dagster)

    _assert_sound(shop)
    shop.web.pages.update(pages)
    assert dagster.ended(backfill) == "COMPLETED_SUCCESS"
    assert dagster.retried_runs_of(backfill)
    # What was on its way when the process died is fetched again, and no more.
    assert 40 <= shop.web.total_gets - before < 80
    _assert_sound(shop)
    shop.assert_equals_a_rebuild()


@pytest.mark.parametrize("stage", ["embedding", "index", "matching"])
def test_run_killed_before_commit_is_retried_and_repeats_only_that_step(
    servers_without_sensors: tuple[Shop, Servers], stage: str
) -> None:
    shop, dagster = servers_without_sensors
    first = 1000 + 100 * len(stage)
    for number in range(9):
        shop.put_item(f"{stage}{number}", first + number)
    shop.put_item(f"{stage} again", 1)  # the image of p1, and so a match
    store = shop.project.store
    fetched, encoded, vectors = shop.web.total_gets, shop.encodings, _vector_count(store)
    shop.hold.before(_commit_of(store, stage))
    backfill = dagster.launch(EVERYTHING)
    dagster.wait_for(shop.hold.is_reached, f"the commit of {stage}")
    lost = (shop.encodings - encoded) - (_vector_count(store) - vectors)

    _kill_run(dagster)

    _assert_sound(shop)
    shop.hold.release()
    assert dagster.ended(backfill) == "COMPLETED_SUCCESS"
    assert dagster.retried_runs_of(backfill)
    assert shop.web.total_gets - fetched == 10
    assert (lost > 0) == (stage == "embedding")
    assert shop.encodings - encoded == 9 + lost
    _assert_sound(shop)
    shop.assert_equals_a_rebuild()


def _commit_of(store: Store, stage: str) -> str:
    """The commit before which a run of a stage is killed: of the vectors, the second new one."""
    if stage != "embedding":
        return {"index": "products/index/_commits", "matching": "matches/pair/_commits"}[stage]
    (table,) = _vector_tables(store)
    return f"{table}/_commits/{versions(store)[table] + 2:012d}"


def _vector_tables(store: Store) -> list[str]:
    return [name for name in store.table_names() if name.startswith("products/vectors/")]


def _vector_count(store: Store) -> int:
    """How many of the products' images have a committed vector."""
    (name,) = _vector_tables(store)
    commit = store.table(name).latest()
    assert commit is not None
    return sum(file.rows or 0 for file in commit.files_with_role())


def _assert_sound(shop: Shop) -> None:
    """What `imgsim verify` looks at: every checksum, and what must hold between tables."""
    found = verify(shop.project.store)
    assert found.tables
    assert found.problems == []


def _kill_run(servers: Servers) -> None:
    """Kill the processes of the one run that is at work, the parent first."""

    def look() -> list[int]:
        with servers.project.instance() as instance:
            started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
            entries = [
                entry
                for record in instance.get_run_records(started, limit=1)
                for entry in instance.all_logs(record.dagster_run.run_id)
            ]
        found = [_process_of(entry.dagster_event) for entry in entries if entry.dagster_event]
        # Steps that have ended left their ids in the log, too.
        return list(dict.fromkeys(pid for pid in found if pid is not None and servers.owns(pid)))

    for pid in servers.wait_for(look, "a run's processes"):
        os.kill(pid, signal.SIGKILL)


def _process_of(event: dg.DagsterEvent) -> int | None:
    data: Any = event.event_specific_data
    entries = getattr(data, "metadata", None) or {}
    pid = entries.get("pid")
    return int(pid.value) if pid is not None else None


@pytest.mark.parametrize("lost", ["daemon", "web", "daemon and its runs"])
def test_a_backfill_outlives_the_servers(
    servers_without_sensors: tuple[Shop, Servers], lost: str
) -> None:
    shop, dagster = servers_without_sensors
    first = 400 + 100 * len(lost)
    for number in range(20):
        shop.put_item(f"{lost}{number}", first + number)
    pages = shop.slow_down(1.0)
    before = shop.web.total_gets
    # That a run is lost with its server is noticed when its time is up.
    tags = {"dagster/max_runtime": "300"} if "runs" in lost else {}
    backfill = dagster.launch(EVERYTHING, tags=tags)
    dagster.wait_for(lambda: shop.web.total_gets > before + 2, "the first downloads")

    dagster.kill(lost.split()[0], with_its_runs="runs" in lost)
    _assert_sound(shop)
    shop.web.pages.update(pages)
    if lost == "web":
        dagster.start_web_server()
    else:
        dagster.start_daemon()

    assert dagster.ended(backfill, 2 * BUSY_S) == "COMPLETED_SUCCESS"
    _assert_sound(shop)
    shop.assert_equals_a_rebuild()


def test_new_dagster_home_continues_with_the_store(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    shop.put_item("after", 90)
    fetched, encoded = shop.web.total_gets, shop.encodings
    committed = versions(shop.project.store)
    dagster.stop()
    shutil.rmtree(shop.project.home)
    shop.project.home.mkdir()

    dagster.start()
    dagster.stop_sensors()
    assert dagster.ended(dagster.launch(EVERYTHING)) == "COMPLETED_SUCCESS"

    assert (shop.web.total_gets - fetched, shop.encodings - encoded) == (1, 1)
    now = versions(shop.project.store)
    assert {name for name in committed if now[name] != committed[name]} <= {
        *EVERYTHING,
        *_vector_tables(shop.project.store),
    }
    _assert_sound(shop)
    shop.assert_equals_a_rebuild()
