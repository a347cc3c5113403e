"""What the conditions ask for, evaluated as the daemon does, without a daemon."""

from __future__ import annotations

import os
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from imgsim_assets.components.automation import freshness
from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import ENCODER, Shop


class Evaluations:
    """One evaluation after the other over a shop that has been materialized once."""

    def __init__(self, shop: Shop, instance: dg.DagsterInstance) -> None:
        self._shop = shop
        self._instance = instance
        self._cursor: AssetDaemonCursor | None = None
        self.requested()

    def requested(self, *, after: timedelta = timedelta()) -> dict[str, int]:
        """How many partitions of which assets are asked for, now or after some time."""
        result = dg.evaluate_automation_conditions(
            defs=self._shop.project.definitions(),
            instance=self._instance,
            cursor=self._cursor,
            evaluation_time=datetime.now(UTC) + after,
        )
        self._cursor = result.cursor
        keys = {each.key for each in result.results if isinstance(each.key, dg.AssetKey)}
        counts = {key.to_user_string(): result.get_num_requested(key) for key in keys}
        return {name: count for name, count in sorted(counts.items()) if count}

    def observe(self, name: str) -> None:
        """What `watch` does at its time."""
        everything = self._shop.project.definitions().resolve_implicit_global_asset_job_def()
        key = dg.AssetKey([name, "source"])
        everything.execute_in_process(instance=self._instance, asset_selection=[key])

    def refresh(self, name: str) -> bool:
        """What the schedule does at its time; whether it succeeded."""
        definitions = self._shop.project.definitions()
        job = definitions.resolve_job_def(f"{name}_refresh")
        done = job.execute_in_process(instance=self._instance, raise_on_error=False)
        return bool(done.success)


@pytest.fixture
def shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def test_changed_source_starts_its_catalog_and_unchanged_source_starts_nothing(
    shop: Shop,
) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        evaluations.observe("products")
        assert evaluations.requested() == {}

        (shop.project.root / "products.csv").touch()
        evaluations.observe("products")
        assert evaluations.requested() == {}

        shop.put_item("new", 100)
        evaluations.observe("products")
        assert evaluations.requested() == {"products/items": 1}
        assert evaluations.requested() == {}


def test_refresh_that_changed_data_starts_only_the_match_table(shop: Shop) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        assert evaluations.refresh("products")
        assert evaluations.requested() == {}

        shop.put_item("new", 100)
        assert evaluations.refresh("products")
        assert evaluations.requested() == {"matches/pair": 1}


def test_failed_blocking_check_stops_downstream_assets(shop: Shop) -> None:
    shop.declare(checks={"min_success_rate": 1.0, "severity": "error"})
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        shop.put_item("dead", 500)
        del shop.web.pages["/p500.jpg"]
        shop.put_item("alive", 501)
        assert not evaluations.refresh("products")

        assert evaluations.requested() == {}


def test_broken_invariant_stops_downstream_assets_of_later_runs(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        shop.put_item("new", 100)
        with monkeypatch.context() as patch:
            broken = CheckResult({"bad": 0}, "broken")
            patch.setattr(checks, "vectors_normalized", lambda *_: broken)
            assert not evaluations.refresh("products")
        assert evaluations.requested() == {}

        # The embeddings pass again, and the assets behind them are due.
        assert evaluations.refresh("products")
        assert evaluations.requested() == {"matches/pair": 1}


def test_another_threshold_starts_the_match_table_only(shop: Shop) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        declared = shop.project.root / "shop/defs/pair/defs.yaml"
        declared.write_text(declared.read_text().replace("threshold: 0.9", "threshold: 0.8"))

        assert evaluations.requested() == {"matches/pair": 1}


def test_another_k_starts_the_graph_only(shop: Shop) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        shop.declare(graph={"k": 2})

        assert evaluations.requested() == {"products/similarity_graph": 1}


def test_another_encoder_starts_embeddings_and_downstream_assets_but_no_download(
    shop: Shop,
) -> None:
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        newer = {**ENCODER, "version": "2"}
        shop.declare(encoder=newer, suppliers={"encoder": newer})
        requested = evaluations.requested()

    assert requested["products/embeddings"] == 3
    assert requested["suppliers/embeddings"] == 2
    assert not {"products/items", "products/images", "suppliers/images"} & set(requested)


def _look(shop: Shop, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One evaluation of the sensor of the products' source."""
    repository = shop.project.definitions().get_repository_def()
    sensor = repository.get_sensor_def("products_source_sensor")
    context = dg.build_sensor_context(instance, cursor=cursor, repository_def=repository)
    return sensor.evaluate_tick(context)


def test_sensor_observes_an_unchanged_source_without_a_run(shop: Shop) -> None:
    shop.declare(observe_schedule="* * * * *")
    source = dg.AssetKey(["products", "source"])
    with shop.project.instance() as instance:
        old = time.time() - 60
        os.utime(shop.project.root / "products.csv", (old, old))
        Evaluations(shop, instance).observe("products")
        (record,) = instance.fetch_observations(source, limit=1).records

        looked = _look(shop, instance)

    (observed,) = looked.asset_events
    assert looked.run_requests == []
    assert record.asset_observation is not None
    assert observed.data_version == record.asset_observation.data_version


def test_sensor_requests_a_run_to_hash_a_changed_source(shop: Shop) -> None:
    shop.declare(observe_schedule="* * * * *")
    with shop.project.instance() as instance:
        Evaluations(shop, instance).observe("products")
        shop.put_item("new", 100)

        looked = _look(shop, instance)

    (request,) = looked.run_requests
    assert looked.asset_events == []
    assert request.asset_selection == [dg.AssetKey(["products", "source"])]
    assert request.tags["imgsim/catalog"] == "products"


def test_sensor_waits_for_the_next_time_of_observe_schedule(shop: Shop) -> None:
    shop.declare(observe_schedule="0 3 1 1 *")
    with shop.project.instance() as instance:
        first = _look(shop, instance)

        second = _look(shop, instance, first.cursor)

    assert len(first.run_requests) + len(first.asset_events) == 1
    assert second.run_requests == second.asset_events == []
    assert second.skip_message.startswith("observed at ")


def test_without_automation_nothing_is_started_and_no_asset_has_a_condition(shop: Shop) -> None:
    shop.declare(automation=False)
    with shop.project.instance() as instance:
        evaluations = Evaluations(shop, instance)
        shop.put_item("new", 100)
        evaluations.observe("products")

        assert evaluations.requested() == {}


def test_one_running_sensor_covers_all_catalogs_and_sources(shop: Shop) -> None:
    shop.declare(observe_schedule="*/5 * * * *")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repository = shop.project.definitions().get_repository_def()

    sensor = repository.get_sensor_def("imgsim_automation")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    targets = sensor.asset_selection.resolve(repository.asset_graph)
    assert dg.AssetKey(["products", "source"]) in targets
    assert dg.AssetKey(["suppliers", "source"]) in targets
    assert dg.AssetKey(["matches", "pair"]) in targets


def test_schedule_runs_and_its_assets_have_a_freshness_policy(shop: Shop) -> None:
    shop.declare(schedule="0 3 * * 1-5")

    repository = shop.project.definitions().get_repository_def()

    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert schedules["products_refresh_schedule"].default_status is (
        dg.DefaultScheduleStatus.RUNNING
    )
    policies = {
        key.to_user_string(): repository.asset_graph.get(key).freshness_policy
        for key in repository.asset_graph.materializable_asset_keys
    }
    fresh = {name for name, policy in policies.items() if policy is not None}
    assert fresh == {"products/items", "products/index", "products/similarity_graph"}


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("0 3 * * *", 26),
        ("0 3 * * 1-5", 74),
        ("0 * * * *", 3),
        ("*/5 8-18 * * *", 13 + 5 / 60 + 2),
        ("0 8-18 * * 1-5", 14 + 48 + 2),
        ("0 3 1 * *", 31 * 24 + 2),
        ("0 3 1 1 *", 366 * 24 + 2),
    ],
)
def test_freshness_window_is_the_longest_gap_of_the_schedule(schedule: str, hours: float) -> None:
    policy = freshness(schedule, "UTC")

    assert isinstance(policy, TimeWindowFreshnessPolicy)
    assert policy.fail_window.to_timedelta() == timedelta(hours=hours)
