"""The whole pipeline through a real Dagster instance, counted at the server and the encoder."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import dagster as dg
import polars as pl
import pytest

from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.storage.provenance import read_provenance
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.processes import assert_succeed, kill_when
from imgsim_assets_tests.support.shop import Shop, results, versions
from imgsim_assets_tests.support.web import Web


@pytest.fixture
def shop(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Shop:
    opened = Shop.open(tmp_path, web)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


@pytest.fixture
def materialized_shop(
    materialized_shops: MaterializedShops, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    opened = materialized_shops.restore(Shop.open)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


def _rebuilt(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> dict[str, pl.DataFrame]:
    """The results of the shop's present catalogs in a store of their own."""
    fresh = shop.project.root / "rebuilt"
    monkeypatch.setenv("IMGSIM_STORE", str(fresh))
    assert shop.project.materialize()
    monkeypatch.delenv("IMGSIM_STORE")
    return results(Store.open(fresh))


def _assert_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    for name, rows in expected.items():
        assert found[name].equals(rows), name


def test_every_asset_is_materialized_with_its_metadata_and_checks(shop: Shop) -> None:
    assert shop.project.materialize()

    store = shop.project.store
    assert set(versions(store)) >= {"products/items", "products/rejects", "matches/pair"}
    matches = read_table("matches/pair", store=store).collect()
    pairs = set(matches.select("left_id", "right_id").rows())
    assert {("p1", "s1"), ("p2", "s2"), ("p3", "s3")} <= pairs
    assert not any(right == "s0" for _, right in pairs)
    with shop.project.instance() as instance:
        for stage in ("images", "embeddings"):
            found = instance.get_materialized_partitions(dg.AssetKey(["products", stage]))
            assert found == {"000", "001", "002"}
            for name in found:
                metadata = _metadata(instance, ["products", stage], name)
                assert metadata["dagster/row_count"] == _rows_in_shard(store, stage, name)
            # Dagster keeps one data version for the shards of a run; the metadata has each one's.
            tags = [_tags(instance, ["products", stage], name) for name in found]
            assert len({each["dagster/data_version"] for each in tags}) == 1
            assert len({each["dagster/code_version"] for each in tags}) == 1
            own = {
                _metadata(instance, ["products", stage], name)["shard_data_version"]
                for name in found
            }
            assert len(own) == 3
        items = _metadata(instance, ["products", "items"])
        assert items["images"] == items["dagster/row_count"]
        counts = ("max_images_per_item", "rejected", "rejected_images", "url_columns")
        assert [items[name] for name in counts] == [1, 0, 0, ["url"]]
        graph = _metadata(instance, ["products", "similarity_graph"])
        _assert_shown_without_a_click(graph["similarity_histogram"])
        assert _linked(graph["contact_sheet"]).startswith(b"\xff\xd8")
        index = _metadata(instance, ["products", "index"])
        assert [column.name for column in index["dagster/column_schema"].columns] == [
            "number",
            "id",
            "image",
            "sha256",
        ]
        match = _metadata(instance, ["matches", "pair"])
        origins = match["dagster/column_lineage"].deps_by_column
        assert [dep.asset_key.to_user_string() for dep in origins["similarity"]] == [
            "products/embeddings",
            "suppliers/index",
        ]
        assert _linked(match["heat_map"]).startswith(b"<svg")
        assert _linked(match["contact_sheet"]).startswith(b"\xff\xd8")
        for entry in ("similarity_histogram", "new_match_1"):
            _assert_shown_without_a_click(match[entry])
        assert match["dagster/row_count"] == matches.height
        checks = _check_results(instance)
    # The audits are not among them: they run alone.
    assert len(checks) == 2 * 7 + 3
    assert all(checks.values()), checks


def _assert_shown_without_a_click(markdown: str) -> None:
    assert "](data:image/" in markdown
    assert len(markdown) <= 1000


def _linked(url: str) -> bytes:
    return Path(url2pathname(urlsplit(url).path)).read_bytes()


def test_every_match_can_be_traced_to_its_images_encoder_source_and_runs(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    store = shop.project.store

    (match,) = read_table("matches/pair", store=store).head(1).collect().to_dicts()
    for side, name in (("left", "products"), ("right", "suppliers")):
        images = read_table(f"{name}/images", store=store).collect()
        item = images.filter(pl.col("id") == match[f"{side}_id"]).to_dicts()[0]
        assert item["sha256"] == match[f"{side}_sha256"]
        assert item["url"].startswith(shop.web.url("/"))
    made_of = read_provenance("matches/pair", store=store)
    tables = made_of["table"].to_list()
    assert tables[0] == "matches/pair"
    assert {f"products/{stage}" for stage in ("embeddings", "images", "items", "source")} < set(
        tables
    )
    assert {f"suppliers/{stage}" for stage in ("index", "images", "items", "source")} < set(tables)
    committed = made_of.filter(~pl.col("table").str.ends_with("/source"))
    with shop.project.instance() as instance:
        assert all(instance.has_run(run) for run in committed["run_id"].to_list())
    assert committed["fingerprint"].drop_nulls().n_unique() == 1


def _metadata(
    instance: dg.DagsterInstance, key: list[str], partition: str | None = None
) -> dict[str, Any]:
    newest = _newest(instance, key, partition)
    return {name: value.value for name, value in newest.metadata.items()}


def _tags(
    instance: dg.DagsterInstance, key: list[str], partition: str | None = None
) -> Mapping[str, str]:
    return _newest(instance, key, partition).tags or {}


def _newest(
    instance: dg.DagsterInstance, key: list[str], partition: str | None
) -> dg.AssetMaterialization:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            dg.AssetKey(key), asset_partitions=[partition] if partition else None
        ),
        limit=1,
    ).records
    materialization = records[0].asset_materialization
    assert materialization is not None
    return materialization


def _rows_in_shard(store: Store, stage: str, shard: str) -> int:
    commit = store.table(f"products/{stage}", key="id").latest()
    assert commit is not None
    return sum(file.rows or 0 for file in commit.files if file.shard == int(shard))


def _check_results(instance: dg.DagsterInstance) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for run in instance.get_run_records(limit=20):
        for entry in instance.all_logs(
            run.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ):
            event = entry.dagster_event
            assert event is not None
            evaluation = event.asset_check_evaluation_data
            name = f"{evaluation.asset_key.to_user_string()}:{evaluation.check_name}"
            found.setdefault(name, evaluation.passed)
    return found


@pytest.mark.slow
def test_a_second_process_with_the_same_home_and_store_does_nothing(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    before = (shop.web.total_gets, shop.encodings, versions(shop.project.store))
    assert before[0] == 20
    assert before[1] > 0

    assert_succeed(shop.project.start(**shop.environment()))

    assert (shop.web.total_gets, shop.encodings, versions(shop.project.store)) == before


def test_the_store_with_an_empty_dagster_home_refetches_nothing(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    before = (shop.web.total_gets, shop.encodings, versions(shop.project.store))
    shutil.rmtree(shop.project.home)
    shop.project.home.mkdir()

    assert shop.project.materialize()

    assert (shop.web.total_gets, shop.encodings, versions(shop.project.store)) == before


def test_an_edited_catalog_processes_only_the_difference_and_equals_a_rebuild(
    materialized_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = materialized_shop
    shop.web.gets.clear()
    encodings = shop.encodings
    shop.put_item("new", 100)
    shop.put_item("p3", 101)  # the same item with another image
    shop.put_item("twin", 5)  # the same image under another id
    shop.remove_item("p7")

    assert shop.project.materialize()

    assert dict(shop.web.gets) == {"/p100.jpg": 1, "/p101.jpg": 1, "/p5.jpg": 1}
    assert shop.encodings - encodings == 2
    found = results(shop.project.store)
    assert "p7" not in found["products/index"]["id"].to_list()
    _assert_same(found, _rebuilt(shop, monkeypatch))


def test_touching_the_source_commits_nothing_and_reordering_its_rows_no_files(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    store = shop.project.store
    before = (shop.web.total_gets, shop.encodings, versions(store))

    (shop.project.root / "products.csv").touch()
    assert shop.project.materialize()

    assert (shop.web.total_gets, shop.encodings, versions(store)) == before

    shop.rows = dict(reversed(shop.rows.items()))
    shop.put_item("p0", 0)
    assert shop.project.materialize()

    reordered = before[2] | {"products/items": before[2]["products/items"] + 1}
    assert (shop.web.total_gets, shop.encodings, versions(store)) == (*before[:2], reordered)
    catalog = store.table("products/items", key="id")
    old, new = (catalog.at(found["products/items"]) for found in (before[2], reordered))
    assert new.files == old.files


def test_dead_link_is_a_status_and_does_not_stop_the_pipeline(shop: Shop) -> None:
    shop.put_item("dead", 500)
    del shop.web.pages["/p500.jpg"]
    shop.web.pages["/p2.jpg"] = jpeg(2)[:900]
    shop.web.pages["/p3.jpg"] = b"<html>log in</html>"

    assert shop.project.materialize()

    store = shop.project.store
    images = dict(
        read_table("products/images", store=store).select("id", "status").collect().rows()
    )
    assert images["dead"] == "http_404"
    assert images["p3"] == "not_image"
    embeddings = read_table("products/embeddings", store=store).collect()
    states = dict(embeddings.select("id", "status").rows())
    assert states["p2"] == "truncated"
    index = read_table("products/index", store=store).collect()
    assert set(index["id"]) == {f"p{n}" for n in range(12)} - {"p2", "p3"}


@pytest.mark.slow
def test_killed_and_rerun_pipelined_step_equals_an_uninterrupted_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.declare(download={"allowed_hosts": [shop.web.address], "max_per_host": 1})
    pages = shop.slow_down(0.4)
    victim = shop.project.start(**shop.environment())
    kill_when(victim, lambda: shop.web.total_gets >= 4)
    shop.web.pages.update(pages)

    assert shop.project.materialize()

    _assert_same(results(shop.project.store), _rebuilt(shop, monkeypatch))


@pytest.mark.slow
def test_pool_slots_are_freed_after_any_number_of_killed_runs(shop: Shop) -> None:
    shipped = Path(__file__).parents[2] / "data/dagster_home/dagster.yaml"
    shutil.copy(shipped, shop.project.home)
    pages = dict(shop.web.pages)
    shop.web.pages.update(dict.fromkeys(pages, lambda _: time.sleep(30)))
    for _ in range(3):
        before = shop.web.total_gets
        victim = shop.project.start(**shop.environment())
        kill_when(victim, lambda before=before: shop.web.total_gets > before)  # type: ignore[misc]
    shop.web.pages.update(pages)

    assert_succeed(shop.project.start(**shop.environment()))

    with shop.project.instance() as instance:
        unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
        assert instance.get_run_records(dg.RunsFilter(statuses=unfinished)) == []


def test_two_files_of_the_same_image_pass_the_index_check(shop: Shop) -> None:
    for item, level in (("flat", 0), ("packed", 9)):
        shop.web.pages[f"/{item}.png"] = encoded(make_image(0), "PNG", compress_level=level)
        shop.put_item(item, 0, path=f"/{item}.png")

    assert shop.project.materialize()

    with shop.project.instance() as instance:
        assert _check_results(instance)["products/index:self_recall"]


def test_a_shard_that_fails_leaves_the_others_materialized(
    materialized_shop: Shop,
) -> None:
    shop = materialized_shop
    store = shop.project.store
    table = ledger_table(store, "products")
    commit = table.latest()
    assert commit is not None
    damaged = next(file for file in commit.files if file.shard == 1)
    path = Path(store.url) / "products/images" / damaged.path
    path.write_bytes(path.read_bytes()[:-1])
    key = dg.AssetKey(["products", "embeddings"])

    with shop.project.instance() as instance:
        instance.wipe_assets([key])
        assert not _run_embeddings(shop, instance)
        kept = instance.get_materialized_partitions(key)
        failed = instance.get_status_by_partition(
            key, ["000", "001", "002"], dg.StaticPartitionsDefinition(["000", "001", "002"])
        )

    assert kept == {"000", "002"}
    assert failed is not None
    assert failed["001"] is not None


def _run_embeddings(shop: Shop, instance: dg.DagsterInstance) -> bool:
    job = shop.project.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(["products", "embeddings"])],
        tags={
            "dagster/asset_partition_range_start": "000",
            "dagster/asset_partition_range_end": "002",
        },
        raise_on_error=False,
    )
    return result.success


@pytest.mark.slow
def test_two_runs_at_once_end_with_one_correct_result(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.project.instance():
        pass  # Dagster cannot make one home twice at once; the store can

    assert_succeed(*(shop.project.start(**shop.environment()) for _ in range(2)))

    _assert_same(results(shop.project.store), _rebuilt(shop, monkeypatch))


def test_threads_are_all_ended(shop: Shop) -> None:
    assert shop.project.materialize()

    lingering = [thread.name for thread in threading.enumerate() if "decode" in thread.name]
    assert not lingering
