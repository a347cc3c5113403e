"""Automation, backfills and lost processes, against the real daemon and web server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.download.ledger import ledger_table
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop, results, versions
from imgsim_assets_tests.support.web import Respond, Web

IMAGES = "products/images"
EMBEDDINGS = "products/embeddings"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Servers]]:
    """A shop that was materialized once, under a daemon and a web server."""
    with Web() as web, pytest.MonkeyPatch.context() as patch:
        shop = Shop.open(tmp_path_factory.mktemp("daemon"), web)
        patch.setenv(COUNTER, str(shop.counter))
        # Two at a time, so that there is time to interrupt.
        download = {"allow_hosts": [web.address], "retries": 0, "max_per_host": 2}
        shop.declare(watch="* * * * *", download=download)
        assert shop.project.materialize()
        servers = Servers(shop.project, shop.environment())
        servers.start()
        try:
            yield shop, servers
        finally:
            servers.stop()


def _slowly(web: Web, seconds: float) -> dict[str, bytes | Respond]:
    """Make every page take its time; returns the pages as they were."""
    pages = dict(web.pages)

    def slow(request: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        body = pages[request.path]
        assert isinstance(body, bytes)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    web.pages.update(dict.fromkeys(pages, slow))
    return pages


def _assert_whole(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Materialize what is missing, and compare with a rebuild in a store of its own."""
    assert shop.project.materialize()
    found = results(shop.project.store)
    fresh = shop.project.root / f"rebuilt-{time.monotonic_ns()}"
    with monkeypatch.context() as patch:
        patch.setenv("IMGSIM_STORE", str(fresh))
        assert shop.project.materialize()
    for name, rows in results(Store.open(fresh)).items():
        assert found[name].equals(rows), name


def _nothing_runs(servers: Servers) -> bool:
    return all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in servers.runs())


def _materialized(servers: Servers, after: float) -> set[str]:
    """The assets, without sources, of runs that started after a time."""
    runs = [run for run in servers.runs() if (run["startTime"] or 0) > after]
    named = {"/".join(key["path"]) for run in runs for key in run["assetSelection"] or []}
    return {name for name in named if not name.endswith("/source")}


def _was_looked_at(shop: Shop, after: float) -> bool:
    """Whether the source of the products was looked at by a run that began after a time."""
    with shop.project.instance() as instance:
        key = dg.AssetKey(["products", "source"])
        found = instance.fetch_observations(key, limit=3).records
        runs = [instance.get_run_record_by_id(record.run_id) for record in found]
    return any(run is not None and (run.start_time or 0) > after for run in runs)


def test_an_edited_source_is_noticed_and_worked_on_and_a_touched_one_is_not(
    servers: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers
    before = (shop.web.total_gets, shop.encodings)
    committed = versions(shop.project.store)
    edited = time.time()
    shop.sell("new", 100)

    def matched() -> bool:
        return versions(shop.project.store)["products/similarity_graph"] > 1

    dagster.wait_for(matched, "the graph of the edited catalogue", 400)
    dagster.wait_for(lambda: _nothing_runs(dagster), "the end of all runs")

    assert (shop.web.total_gets - before[0], shop.encodings - before[1]) == (1, 1)
    started = _materialized(dagster, edited)
    assert {"products/catalogue", IMAGES, EMBEDDINGS, "products/index"} <= started
    assert not any(name.startswith("suppliers/") for name in started)
    suppliers = {name: number for name, number in committed.items() if "suppliers" in name}
    assert suppliers.items() <= versions(shop.project.store).items()

    touched, committed = time.time(), versions(shop.project.store)
    (shop.project.root / "products.csv").touch()
    dagster.wait_for(lambda: _was_looked_at(shop, touched), "another look at the source", 300)
    time.sleep(15)  # in which the sensor would have started what it wanted to
    dagster.wait_for(lambda: _nothing_runs(dagster), "the end of all runs")

    assert _materialized(dagster, touched) <= {"matches/pair"}
    assert versions(shop.project.store) == committed


@pytest.fixture
def still(servers: tuple[Shop, Servers]) -> tuple[Shop, Servers]:
    """The same, where nothing is started but by a person."""
    servers[1].stop_sensors()
    return servers


def test_a_shard_that_fails_is_the_only_one_that_is_asked_for_again(
    still: tuple[Shop, Servers],
) -> None:
    shop, dagster = still
    damaged = _damage_ledger(shop, shard=1)
    failed = dagster.launch([EMBEDDINGS])

    assert dagster.ended(failed) == "COMPLETED_FAILED"

    assert _partition_counts(dagster, failed) == (2, 1)
    assert _versions_by_shard(shop, {"000", "002"}) == {"000": True, "002": True}
    damaged[0].write_bytes(damaged[1])
    again = dagster.launch_failed_again(failed)
    assert dagster.ended(again) == "COMPLETED_SUCCESS"
    assert _partition_counts(dagster, again) == (1, 0)
    (run,) = dagster.runs_of(again)
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert "001" in (tags.get("dagster/partition"), tags.get("dagster/asset_partition_range_start"))


def _damage_ledger(shop: Shop, shard: int) -> tuple[Path, bytes]:
    commit = ledger_table(shop.project.store, "products").latest()
    assert commit is not None
    file = next(file for file in commit.files if file.shard == shard)
    path = Path(shop.project.store.url) / IMAGES / file.path
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    return path, content


def _partition_counts(servers: Servers, backfill: str) -> tuple[int, int]:
    (counts,) = servers.backfill(backfill)["assetBackfillData"]["assetBackfillStatuses"]
    return counts["numPartitionsMaterialized"], counts["numPartitionsFailed"]


def _versions_by_shard(shop: Shop, shards: set[str]) -> dict[str, bool]:
    """Whether the newest materialization of each shard carries data and code versions."""
    found = {}
    with shop.project.instance() as instance:
        for shard in shards:
            wanted = dg.AssetRecordsFilter(
                dg.AssetKey(EMBEDDINGS.split("/")), asset_partitions=[shard]
            )
            (record,) = instance.fetch_materializations(wanted, limit=1).records
            materialization = record.asset_materialization
            assert materialization is not None
            tags = materialization.tags or {}
            found[shard] = bool(tags.get("dagster/data_version")) and bool(
                tags.get("dagster/code_version")
            )
    return found


def test_a_cancelled_backfill_keeps_what_it_fetched(
    still: tuple[Shop, Servers], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, dagster = still
    for number in range(40):
        shop.sell(f"late{number}", 200 + number)
    pages = _slowly(shop.web, 1.0)
    before = shop.web.total_gets
    backfill = dagster.launch(["products/catalogue", IMAGES])
    dagster.wait_for(lambda: shop.web.total_gets > before + 4, "the first downloads")
    time.sleep(6)  # downloads are committed every five seconds

    dagster.cancel(backfill)

    assert dagster.ended(backfill) == "CANCELED"
    shop.web.pages.update(pages)
    ledger = read_table(IMAGES, store=shop.project.store).collect()
    kept = ledger.filter(ledger["id"].str.starts_with("late")).height
    assert 0 < kept < 40
    fetched = shop.web.total_gets
    assert dagster.ended(dagster.launch([IMAGES])) == "COMPLETED_SUCCESS"
    assert shop.web.total_gets - fetched == 40 - kept
    _assert_whole(shop, monkeypatch)


# ---- lost processes ---------------------------------------------------------------------


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
        return list(dict.fromkeys(pid for pid in found if pid is not None))

    for pid in servers.wait_for(look, "a run's processes"):
        os.kill(pid, signal.SIGKILL)


def _process_of(event: dg.DagsterEvent) -> int | None:
    data: Any = event.event_specific_data
    entries = getattr(data, "metadata", None) or {}
    pid = entries.get("pid")
    return int(pid.value) if pid is not None else None


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_run_again_and_fetches_the_rest(
    still: tuple[Shop, Servers], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, dagster = still
    for number in range(40):
        shop.sell(f"lost{number}", 300 + number)
    pages = _slowly(shop.web, 1.0)
    before = shop.web.total_gets
    backfill = dagster.launch(["products/catalogue", IMAGES])
    dagster.wait_for(lambda: shop.web.total_gets > before + 4, "the first downloads")
    time.sleep(6)

    _kill_run(dagster)

    shop.web.pages.update(pages)
    assert dagster.ended(backfill, 400) == "COMPLETED_SUCCESS"
    assert len(dagster.runs_of(backfill)) >= 3
    # What was on its way when the process died is fetched again, and no more.
    assert 40 <= shop.web.total_gets - before < 80
    _assert_whole(shop, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["daemon", "web", "daemon and its runs"])
def test_a_backfill_outlives_the_servers(
    still: tuple[Shop, Servers], lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, dagster = still
    first = 400 + 100 * len(lost)
    for number in range(20):
        shop.sell(f"{lost}{number}", first + number)
    pages = _slowly(shop.web, 1.0)
    before = shop.web.total_gets
    backfill = dagster.launch(["products/catalogue", IMAGES, EMBEDDINGS])
    dagster.wait_for(lambda: shop.web.total_gets > before + 2, "the first downloads")

    dagster.kill(lost.split()[0], with_its_runs="runs" in lost)
    shop.web.pages.update(pages)
    if lost == "web":
        dagster.start_web_server()
    else:
        dagster.start_daemon()

    assert dagster.ended(backfill, 600) == "COMPLETED_SUCCESS"
    _assert_whole(shop, monkeypatch)


@pytest.mark.slow
def test_one_pool_keeps_two_catalogues_from_the_network_at_once(
    still: tuple[Shop, Servers],
) -> None:
    shop, dagster = still
    for number in range(10):
        shop.sell(f"pool{number}", 600 + number)
    pages = _slowly(shop.web, 0.5)
    backfills = [
        dagster.launch(["products/catalogue", IMAGES]),
        dagster.launch(["suppliers/images"]),
    ]
    assert [dagster.ended(each) for each in backfills] == ["COMPLETED_SUCCESS"] * 2
    shop.web.pages.update(pages)

    spans = sorted(span for each in backfills for span in _image_steps(shop, dagster, each))

    assert len(spans) >= 2
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(spans))


def _image_steps(shop: Shop, servers: Servers, backfill: str) -> list[tuple[float, float]]:
    """When the download steps of a backfill began and ended."""
    with shop.project.instance() as instance:
        steps = [
            step
            for run in servers.runs_of(backfill)
            for step in instance.get_run_step_stats(run["runId"])
        ]
    return [
        (step.start_time, step.end_time)
        for step in steps
        if step.step_key.endswith("__images") and step.start_time and step.end_time
    ]
