"""A catalog whose images are embedded while they are fetched, through a real Dagster."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.download import shard_run
from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.downloads import wait_until
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.fresh_python import printed_lines
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.processes import kill_when
from imgsim_assets_tests.support.shop import Shop, results, versions
from imgsim_assets_tests.support.web import Web
from imgsim_assets_tests.support.weights import save_weights, untrained

ALL_SHARDS = {
    "dagster/asset_partition_range_start": "000",
    "dagster/asset_partition_range_end": "002",
}
IMAGES = dg.AssetKey(["products", "images"])
EMBEDDINGS = dg.AssetKey(["products", "embeddings"])
_REFRESH_AGAIN = """
import sys
from pathlib import Path
from imgsim_assets_tests.support.projects import Project
print(Project(Path(sys.argv[1])).materialize())
print(sorted({"torch", "torchvision"} & set(sys.modules)))
"""


def _declared(root: Path, web: Web) -> Shop:
    opened = Shop.open(root, web)
    opened.declare(pipelined=True)
    return opened


@pytest.fixture
def shop(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Shop:
    opened = _declared(tmp_path, web)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


@pytest.fixture
def materialized_shop(
    materialized_shops: MaterializedShops, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    opened = materialized_shops.restore(_declared)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


@pytest.fixture
def commits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images stage commits every few images, as it does when they are many."""
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.05)


def test_pipelined_catalog_equals_one_in_two_steps(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits_at_once: None
) -> None:
    assert shop.project.materialize()
    streamed = results(shop.project.store)
    gets, encodings = shop.web.total_gets, shop.encodings

    monkeypatch.setenv("IMGSIM_STORE", str(tmp_path / "unstreamed"))
    shop.declare()
    assert shop.project.materialize()

    plain = results(shop.project.store)
    monkeypatch.delenv("IMGSIM_STORE")
    assert {name for name, rows in plain.items() if not rows.equals(streamed[name])} == set()
    assert shop.web.total_gets == 2 * gets
    assert shop.encodings == 2 * encodings


def test_pipelined_step_has_the_metadata_versions_and_checks_of_two_steps(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    with shop.project.instance() as instance:
        streamed = {key: _facts(instance, key) for key in (IMAGES, EMBEDDINGS)}
    shop.declare()

    # The other way round it is the same project: nothing is fetched or embedded again.
    before = (shop.web.total_gets, shop.encodings, versions(shop.project.store))
    assert shop.project.materialize()

    assert (shop.web.total_gets, shop.encodings, versions(shop.project.store)) == before
    with shop.project.instance() as instance:
        for key, facts in streamed.items():
            plain = _facts(instance, key)
            assert facts["partitions"] == plain["partitions"] == {"000", "001", "002"}
            assert facts["metadata"] - {"rates", "batch_size"} >= plain["metadata"] - {"rates"}
            assert facts["checks"] == plain["checks"]
            assert facts["versions"] == plain["versions"]
            assert facts["code_versions"] == plain["code_versions"]


def test_images_are_embedded_while_others_are_fetched(shop: Shop, commits_at_once: None) -> None:
    """The last image of the last shard is held back until others have been encoded."""
    page = shop.web.pages["/p11.jpg"]
    assert isinstance(page, bytes)

    def held_back(request: BaseHTTPRequestHandler) -> None:
        wait_until(lambda: shop.encodings > 0)
        request.send_response(200)
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    shop.web.pages["/p11.jpg"] = held_back

    assert shop.project.materialize()

    with shop.project.instance() as instance:
        ahead = [
            _metadata(instance, EMBEDDINGS, name).get("embedded_while_fetching", 0)
            for name in ("000", "001", "002")
        ]
    assert sum(ahead) > 0
    assert read_table("products/embeddings", store=shop.project.store).collect().height == 12


def test_an_image_that_cannot_be_decoded_is_a_status(shop: Shop, commits_at_once: None) -> None:
    whole = shop.web.pages["/p2.jpg"]
    assert isinstance(whole, bytes)
    shop.web.pages["/p2.jpg"] = whole[:900]

    assert shop.project.materialize()

    rows = read_table("products/embeddings", store=shop.project.store).collect()
    assert dict(rows.select("id", "status").rows())["p2"] == "truncated"


@pytest.mark.parametrize("chosen", [IMAGES, EMBEDDINGS])
def test_either_pipelined_asset_can_be_materialized_alone(
    materialized_shop: Shop, chosen: dg.AssetKey
) -> None:
    shop = materialized_shop
    shop.put_item("new", 100)
    with shop.project.instance() as instance:
        _run(shop, instance, [dg.AssetKey(["products", "items"])], {})
        before = (shop.web.total_gets, shop.encodings)
        _run(shop, instance, [chosen])
        counts = {key: len(_materializations(instance, key)) for key in (IMAGES, EMBEDDINGS)}

    other = EMBEDDINGS if chosen == IMAGES else IMAGES
    assert (counts[chosen], counts[other]) == (6, 3)
    fetched = 1 if chosen == IMAGES else 0
    assert (shop.web.total_gets, shop.encodings) == (before[0] + fetched, before[1])


def test_an_encoder_that_cannot_be_loaded_leaves_the_images_materialized(shop: Shop) -> None:
    shop.declare(pipelined=True, encoder={"name": "x", "factory": "nobody.has.it:make"})
    shutil.rmtree(shop.project.root / "shop/defs/pair")

    with shop.project.instance() as instance:
        _run(shop, instance, [dg.AssetKey(["products", "items"])], {})
        result = _run(shop, instance, [IMAGES, EMBEDDINGS], succeeds=False)
        assert instance.get_materialized_partitions(IMAGES) == {"000", "001", "002"}
        assert instance.get_materialized_partitions(EMBEDDINGS) == set()

    (failure,) = result.get_step_failure_events()
    assert "nobody" in str(failure.step_failure_data.error)


def test_too_few_images_stop_the_embeddings_with_severity_error(shop: Shop) -> None:
    shop.declare(pipelined=True, checks={"min_success_rate": 0.9, "severity": "error"})
    for number in range(2):
        del shop.web.pages[f"/p{number}.jpg"]

    assert not shop.project.materialize()

    tables = versions(shop.project.store)
    assert "products/images" in tables
    assert not {"products/embeddings", "products/index"} & set(tables)
    with shop.project.instance() as instance:
        assert instance.get_materialized_partitions(IMAGES) == {"000", "001", "002"}
        assert instance.get_materialized_partitions(EMBEDDINGS) == set()


def test_a_refresh_with_nothing_to_do_imports_no_torch(shop: Shop, tmp_path: Path) -> None:
    weights = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    encoder = {"name": "squeezenet1_1", "weights": weights, "device": "cpu"}
    in_two_steps = {"encoder": encoder, "pipelined": False}
    shop.declare(pipelined=True, encoder=encoder, suppliers=in_two_steps)
    shutil.rmtree(shop.project.root / "shop/defs/pair")
    assert shop.project.materialize()

    lines = printed_lines(_REFRESH_AGAIN, str(shop.project.root))

    assert lines == ["True", "[]"]


@pytest.mark.slow
def test_killed_pipelined_step_keeps_its_vectors(shop: Shop) -> None:
    pages = dict(shop.web.pages)
    for path in pages:
        shop.web.pages[path] = _slowly(pages[path], 0.3)
    shop.declare(
        pipelined=True,
        download={"allowed_hosts": [shop.web.address], "max_per_host": 1, "retries": 0},
    )
    victim = shop.project.start(**shop.environment())
    kill_when(victim, lambda: shop.encodings > 0)
    shop.web.pages.update(pages)
    kept = shop.encodings

    assert shop.project.materialize()

    assert kept > 0
    # A batch that was computed and not yet committed is computed again; no more than that.
    assert shop.encodings - kept <= 20 - kept + 4
    assert read_table("products/index", store=shop.project.store).collect().height == 12


def test_the_step_holds_the_pool_of_the_card(shop: Shop) -> None:
    graph = shop.project.definitions().resolve_asset_graph()

    assert graph.get(IMAGES).pools == graph.get(EMBEDDINGS).pools == {"gpu"}


def test_upstream_change_requests_both_pipelined_assets(materialized_shop: Shop) -> None:
    shop = materialized_shop
    with shop.project.instance() as instance:
        first = dg.evaluate_automation_conditions(
            defs=shop.project.definitions(), instance=instance
        )
        shop.put_item("new", 100)
        _run(shop, instance, [dg.AssetKey(["products", "items"])], {})
        second = dg.evaluate_automation_conditions(
            defs=shop.project.definitions(), instance=instance, cursor=first.cursor
        )

    assert [second.get_num_requested(key) for key in (IMAGES, EMBEDDINGS)] == [3, 3]


def _run(
    shop: Shop,
    instance: dg.DagsterInstance,
    selection: list[dg.AssetKey],
    tags: dict[str, str] | None = None,
    *,
    succeeds: bool = True,
) -> dg.ExecuteInProcessResult:
    job = shop.project.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=selection,
        tags=ALL_SHARDS if tags is None else tags,
        raise_on_error=False,
    )
    assert result.success is succeeds
    return result


def _materializations(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[Any]:
    found = instance.fetch_materializations(dg.AssetRecordsFilter(key), limit=50).records
    return [record.asset_materialization for record in found]


def _facts(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    """What Dagster knows of the newest materialization of each shard."""
    newest = _materializations(instance, key)[:3]
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(key, name) for name in ("success_rate", "vectors_normalized")]
    )
    return {
        "partitions": {each.partition for each in newest},
        "metadata": {
            name
            for each in newest
            for name in each.metadata
            if not name.startswith("images_per_second_")
        },
        "versions": {each.tags["dagster/data_version"] for each in newest},
        "code_versions": {each.tags["dagster/code_version"] for each in newest},
        "checks": {check.name: record.status for check, record in checks.items()},
    }


def _metadata(instance: dg.DagsterInstance, key: dg.AssetKey, shard: str) -> dict[str, Any]:
    found = [each for each in _materializations(instance, key) if each.partition == shard]
    return {name: value.value for name, value in found[0].metadata.items()}


def _slowly(page: Any, seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        request.send_response(200)
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    return answer
