"""The refresh job as anything launches it: without a partition, with one, and on its schedule."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components import shard_runs
from imgsim_assets.storage.lease import Lease
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets_tests.support.downloads import wait_until
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.shop import ENCODER, Shop
from imgsim_assets_tests.support.web import Web

IMAGES = dg.AssetKey(["products", "images"])
EMBEDDINGS = dg.AssetKey(["products", "embeddings"])


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return Shop.open(tmp_path, web, products=6, suppliers=3)


def _refresh(shop: Shop, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    job = shop.project.definitions().resolve_job_def("products_refresh")
    return job.execute_in_process(instance=instance, **options)


def _partitions(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> list[str]:
    events = result.get_asset_materialization_events()
    return sorted(
        str(event.step_materialization_data.materialization.partition)
        for event in events
        if event.asset_key == key
    )


def test_run_without_partition_records_every_shard_and_a_repeated_one_succeeds(shop: Shop) -> None:
    with shop.project.instance() as instance:
        for _ in range(2):
            result = _refresh(shop, instance)

            for key in (IMAGES, EMBEDDINGS):
                assert _partitions(result, key) == ["000", "001", "002"]
            assert _partitions(result, dg.AssetKey(["products", "similarity_graph"])) == ["None"]
            assert result.dagster_run.tags["imgsim/catalog"] == "products"
        records = instance.fetch_materializations(IMAGES, limit=3).records
        rows = {}
        for record in records:
            materialization = record.asset_materialization
            assert materialization is not None
            rows[materialization.partition] = materialization.metadata["dagster/row_count"].value
        (embedded,) = instance.fetch_materializations(EMBEDDINGS, limit=1).records
    assert embedded.asset_materialization is not None
    metadata = embedded.asset_materialization.metadata
    assert str(ENCODER["factory"]) in str(metadata["encoder"].value)
    assert metadata["encoder_fingerprint"].value
    assert len(rows) == 3
    assert sum(rows.values()) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"partition_key": "001"}, ["001"]),
        (
            {
                "tags": {
                    "dagster/asset_partition_range_start": "001",
                    "dagster/asset_partition_range_end": "002",
                }
            },
            ["001", "002"],
        ),
    ],
)
def test_named_partition_or_range_is_all_that_runs(
    shop: Shop, options: dict[str, Any], expected: list[str]
) -> None:
    with shop.project.instance() as instance:
        result = _refresh(shop, instance, **options)

    assert _partitions(result, IMAGES) == expected
    assert _partitions(result, EMBEDDINGS) == expected


def test_run_of_another_job_without_partition_fails_with_one_message(shop: Shop) -> None:
    shop.project.write(
        "shop/defs/jobs.py",
        """
        import dagster as dg

        images = dg.define_asset_job("nightly", selection=["products/items", "products/images"])
        """,
    )
    job = shop.project.definitions().resolve_job_def("nightly")
    with shop.project.instance() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)

    failure = next(event for event in result.all_events if event.is_step_failure)
    error = failure.step_failure_data.error
    assert error is not None
    assert "products/images has partitions" in error.message
    assert "launch the job products_refresh" in error.message


def _tick(shop: Shop, instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    repository = shop.project.definitions().get_repository_def()
    schedule = repository.get_schedule_def("products_refresh_schedule")
    with dg.build_schedule_context(instance=instance, repository_def=repository) as context:
        data = schedule.evaluate_tick(context)
    if data.run_requests:
        return data.run_requests[0]
    return dg.SkipReason(data.skip_message)


def test_schedule_skips_its_tick_while_the_last_refresh_is_unfinished(shop: Shop) -> None:
    shop.declare(schedule="0 3 * * *")
    with shop.project.instance() as instance:
        run = instance.create_run_for_job(
            shop.project.definitions().resolve_job_def("products_refresh"),
            status=dg.DagsterRunStatus.STARTED,
        )
        skipped = _tick(shop, instance)
        instance.report_run_failed(run)

        requested = _tick(shop, instance)

    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == f"run {run.run_id} of products_refresh is started"
    assert isinstance(requested, dg.RunRequest)


@pytest.mark.parametrize(
    ("settings", "executor"),
    [
        ({"shards": 4}, "in_process"),
        ({"shards": 5}, "multi_or_in_process_executor"),
        ({"shards": 64, "executor": "in_process"}, "in_process"),
        ({"shards": 1, "executor": "project"}, "multi_or_in_process_executor"),
    ],
)
def test_refresh_of_a_small_catalog_runs_in_one_process(
    shop: Shop, settings: dict[str, Any], executor: str
) -> None:
    shop.declare(**settings)

    job = shop.project.definitions().resolve_job_def("products_refresh")

    assert job.executor_def.name == executor


@pytest.mark.slow
def test_step_whose_shard_another_run_holds_gives_its_pool_slot_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_runs, "_MAX_WAIT_SECONDS", 1)
    files = shop.project.store.files
    other_run = Lease(
        files, f"products/images/_leases/{Shard(shard_index('p0', 3), 3).name}-of-3", work="a shard"
    )
    other_run.__enter__()
    with shop.project.instance() as instance:
        instance.event_log_storage.set_concurrency_slots("network", 1)
        slots: list[int] = []

        def release_after_a_look() -> None:
            try:
                wait_until(lambda: bool(_retries(instance)), BUSY_S)
                info = instance.event_log_storage.get_concurrency_info("network")
                slots.append(info.active_slot_count)
            finally:
                other_run.__exit__(None, None, None)

        looking = threading.Thread(target=release_after_a_look)
        looking.start()
        result = _refresh(shop, instance)
        looking.join()

    assert result.success
    assert slots == [0]
    # Those of the first attempt are recorded before the second one, which records all of them.
    assert sorted(set(_partitions(result, IMAGES))) == ["000", "001", "002"]
    recorded = {name: _metadata(result, IMAGES, name) for name in ("000", "001", "002")}
    assert [metadata["changed"].value for metadata in recorded.values()] == [True, True, True]
    rows = [metadata["dagster/row_count"].value for metadata in recorded.values()]
    assert [metadata["fetched"].value for metadata in recorded.values()] == rows


def _metadata(
    result: dg.ExecuteInProcessResult, key: dg.AssetKey, partition: str
) -> Mapping[str, dg.MetadataValue]:
    """The metadata of the last materialization of a partition."""
    *_, last = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == key and event.partition == partition
    ]
    return last.metadata


def _retries(instance: dg.DagsterInstance) -> list[dg.DagsterEvent]:
    """The events by which steps are to be tried again."""
    logs = [
        entry.dagster_event
        for record in instance.get_run_records()
        for entry in instance.all_logs(record.dagster_run.run_id)
    ]
    return [event for event in logs if event is not None and event.is_step_up_for_retry]
