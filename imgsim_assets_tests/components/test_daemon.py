"""Automation and backfills, against the real daemon and web server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop, versions

IMAGES = "products/images"
EMBEDDINGS = "products/embeddings"


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


@pytest.mark.slow
def test_edited_source_is_processed_and_touched_source_is_not(
    servers: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers
    before = (shop.web.total_gets, shop.encodings)
    committed = versions(shop.project.store)
    edited = time.time()
    shop.put_item("new", 100)

    def matched() -> bool:
        return versions(shop.project.store)["products/similarity_graph"] > 1

    dagster.wait_for(matched, "the graph of the edited catalog")
    dagster.wait_for(lambda: _nothing_runs(dagster), "the end of all runs")

    assert (shop.web.total_gets - before[0], shop.encodings - before[1]) == (1, 1)
    started = _materialized(dagster, edited)
    assert {"products/items", IMAGES, EMBEDDINGS, "products/index"} <= started
    assert not any(name.startswith("suppliers/") for name in started)
    suppliers = {name: number for name, number in committed.items() if "suppliers" in name}
    assert suppliers.items() <= versions(shop.project.store).items()

    touched, committed = time.time(), versions(shop.project.store)
    (shop.project.root / "products.csv").touch()
    dagster.wait_for(lambda: _was_looked_at(shop, touched), "another look at the source")
    time.sleep(15)  # in which the sensor would have started what it wanted to
    dagster.wait_for(lambda: _nothing_runs(dagster), "the end of all runs")

    assert _materialized(dagster, touched) <= {"matches/pair"}
    assert versions(shop.project.store) == committed


@pytest.mark.slow
def test_only_the_failed_shard_is_requested_again(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    left_out = _recorded(shop, EMBEDDINGS, "002")
    damaged = _damage_ledger(shop, shard=1)
    failed = dagster.launch([EMBEDDINGS], ["000", "001"])

    assert dagster.ended(failed) == "COMPLETED_FAILED"

    assert _partition_counts(dagster, failed) == {EMBEDDINGS: (1, 1)}
    (run,) = dagster.runs_of(failed)
    kept = _recorded(shop, EMBEDDINGS, "000")
    assert kept.run_id == run["runId"]
    assert kept.data_version == kept.metadata["shard_data_version"]
    assert kept.code_version == left_out.code_version
    assert kept.metadata["dagster/row_count"] == _rows_of(shop, EMBEDDINGS, "000")
    assert _recorded(shop, EMBEDDINGS, "002") == left_out

    damaged[0].write_bytes(damaged[1])
    again = dagster.retry_failed_runs(failed)
    assert dagster.ended(again) == "COMPLETED_SUCCESS"
    assert _partition_counts(dagster, again) == {EMBEDDINGS: (1, 0)}
    (run,) = dagster.runs_of(again)
    assert _shards_of(run) == ("001", "001")
    assert _recorded(shop, EMBEDDINGS, "000") == kept


@pytest.mark.slow
def test_a_backfill_in_several_runs_records_each_shard_by_itself(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    assets = ["suppliers/images", "suppliers/embeddings"]
    backfill = dagster.launch(assets)

    assert dagster.ended(backfill) == "COMPLETED_SUCCESS"

    assert _partition_counts(dagster, backfill) == dict.fromkeys(assets, (2, 0))
    runs = {_shards_of(run): run["runId"] for run in dagster.runs_of(backfill)}
    assert set(runs) == {("000", "000"), ("001", "001")}
    for name in assets:
        recorded = {shard: _recorded(shop, name, shard) for shard in ("000", "001")}
        for shard, found in recorded.items():
            assert found.run_id == runs[shard, shard]
            assert found.data_version == found.metadata["shard_data_version"]
            assert found.metadata["dagster/row_count"] == _rows_of(shop, name, shard)
        assert len({found.data_version for found in recorded.values()}) == 2


@dataclass(frozen=True)
class Recorded:
    """What Dagster knows of the newest materialization of a shard."""

    run_id: str
    data_version: str | None
    code_version: str | None
    metadata: dict[str, Any]


def _recorded(shop: Shop, name: str, shard: str) -> Recorded:
    wanted = dg.AssetRecordsFilter(dg.AssetKey(name.split("/")), asset_partitions=[shard])
    with shop.project.instance() as instance:
        (record,) = instance.fetch_materializations(wanted, limit=1).records
    materialization = record.asset_materialization
    assert materialization is not None
    tags = materialization.tags or {}
    return Recorded(
        record.run_id,
        tags.get("dagster/data_version"),
        tags.get("dagster/code_version"),
        {key: value.value for key, value in materialization.metadata.items()},
    )


def _rows_of(shop: Shop, name: str, shard: str) -> int:
    commit = shop.project.store.table(name, key="id").latest()
    assert commit is not None
    return sum(file.rows or 0 for file in commit.files if file.shard == int(shard))


def _shards_of(run: dict[str, Any]) -> tuple[str, str]:
    """The first and last shard that a run takes."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    one = tags.get("dagster/partition", "")
    first = tags.get("dagster/asset_partition_range_start", one)
    return first, tags.get("dagster/asset_partition_range_end", one)


def _damage_ledger(shop: Shop, shard: int) -> tuple[Path, bytes]:
    commit = ledger_table(shop.project.store, "products").latest()
    assert commit is not None
    file = next(file for file in commit.files if file.shard == shard)
    path = Path(shop.project.store.url) / IMAGES / file.path
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    return path, content


def _partition_counts(servers: Servers, backfill: str) -> dict[str, tuple[int, int]]:
    """Of each asset of a backfill: partitions that are materialized, and that failed."""
    statuses = servers.backfill(backfill)["assetBackfillData"]["assetBackfillStatuses"]
    return {
        "/".join(each["assetKey"]["path"]): (
            each["numPartitionsMaterialized"],
            each["numPartitionsFailed"],
        )
        for each in statuses
    }


@pytest.mark.slow
def test_run_of_nonconsecutive_shards_processes_only_those(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    before = {shard: _recorded(shop, IMAGES, shard) for shard in ("000", "001", "002")}
    backfill = dagster.launch([IMAGES], ["000", "002"])

    assert dagster.ended(backfill) == "COMPLETED_SUCCESS"

    assert _partition_counts(dagster, backfill) == {IMAGES: (2, 0)}
    runs = [_shards_of(run) for run in dagster.runs_of(backfill)]
    assert sorted(runs) == [("000", "000"), ("002", "002")]
    assert _recorded(shop, IMAGES, "001") == before["001"]
    assert _recorded(shop, IMAGES, "002") != before["002"]


@pytest.mark.slow
def test_a_cancelled_backfill_keeps_what_it_fetched(
    servers_without_sensors: tuple[Shop, Servers],
) -> None:
    shop, dagster = servers_without_sensors
    for number in range(40):
        shop.put_item(f"late{number}", 200 + number)
    pages = shop.slow_down(1.0)
    before = shop.web.total_gets
    backfill = dagster.launch(["products/items", IMAGES])
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
    assert shop.project.materialize()
    shop.assert_equals_a_rebuild()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "pool"), [("images", "network"), ("embeddings", "gpu")])
def test_a_pool_keeps_two_catalogs_apart(
    servers_without_sensors: tuple[Shop, Servers], stage: str, pool: str
) -> None:
    shop, dagster = servers_without_sensors
    shop.put_item(f"at {pool}", 600 + len(pool))
    if stage == "embeddings":
        ended = dagster.ended(dagster.launch(["products/items", IMAGES]))
        assert ended == "COMPLETED_SUCCESS"
    shop.hold.before(f"products/{stage}/_commits")
    upstream = ["products/items"] if stage == "images" else []
    holder = dagster.launch([*upstream, f"products/{stage}"])
    dagster.wait_for(shop.hold.is_reached, f"products/{stage} to have something to commit")

    waiting = dagster.launch([f"suppliers/{stage}"])
    dagster.wait_for(lambda: dagster.runs_of(waiting), "the runs of the suppliers")
    time.sleep(10)  # in which they would have begun

    assert _held_by(dagster, pool) == _run_ids(dagster, holder)
    assert _steps(shop, dagster, waiting, stage) == []
    shop.hold.release()
    assert dagster.ended(holder) == dagster.ended(waiting) == "COMPLETED_SUCCESS"
    spans = [span for each in (holder, waiting) for span in _steps(shop, dagster, each, stage)]
    assert len(spans) == 3
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(sorted(spans)))


def _held_by(servers: Servers, pool: str) -> set[str]:
    """The runs whose steps hold the slots of a pool, which has one."""
    found = servers.pool(pool)
    assert found["slotCount"] == 1
    return {slot["runId"] for slot in found["claimedSlots"]}


def _run_ids(servers: Servers, backfill: str) -> set[str]:
    """The run of a backfill that is at work."""
    return {run["runId"] for run in servers.runs_of(backfill) if run["status"] == "STARTED"}


def _steps(shop: Shop, servers: Servers, backfill: str, stage: str) -> list[tuple[float, float]]:
    """When the steps of a stage began and ended, over the runs of a backfill."""
    with shop.project.instance() as instance:
        steps = [
            step
            for run in servers.runs_of(backfill)
            for step in instance.get_run_step_stats(run["runId"])
        ]
    return [
        (step.start_time, step.end_time or 0.0)
        for step in steps
        if step.step_key.endswith(f"__{stage}") and step.start_time
    ]
