"""What match tables and graphs leave out, in Dagster: lineage, metadata, and the ignore list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components.ignore_list import ignore_list
from imgsim_assets.components.observed_input import ObservedInput
from imgsim_assets.components.store.resource import STORE, StoreResource
from imgsim_assets.similarity.settings import IgnoreSettings
from imgsim_assets_tests.support.catalogs import sha256_of
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

PAIR = dg.AssetKey(["matches", "pair"])


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    """A shop of which three products have the same placeholder."""
    opened = Shop.open(tmp_path, web, products=4, suppliers=4)
    for item in ("x", "y", "z"):
        opened.put_item(item, 900, path="/p2.jpg")
    return opened


def _metadata(shop: Shop, key: dg.AssetKey) -> dict[str, Any]:
    with shop.project.instance() as instance:
        event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_shared_images_are_shown_with_sha256_items_and_a_picture(shop: Shop) -> None:
    shop.declare(pair={"max_shared": 3}, graph={"k": 3, "max_shared": 3})
    assert shop.project.materialize()

    for key in (PAIR, dg.AssetKey(["products", "similarity_graph"])):
        metadata = _metadata(shop, key)
        (shared,) = (record.data for record in metadata["shared_images"].records)
        assert shared["sha256"] == sha256_of(jpeg(2))
        assert (shared["catalog"], shared["items"]) == ("products", 4)
        assert metadata["most_shared_images"].startswith("![shared images](data:image/webp")
        (reason,) = (record.data for record in metadata["left_out_images"].records)
        assert reason == {"reason": "shared", "count": 4}
    assert _metadata(shop, PAIR)["left_images"] == 7
    assert {row["left_id"] for row in _rows(shop)} == {"p1", "p3"}


def test_compared_image_of_most_items_is_named_with_the_fix(shop: Shop) -> None:
    shop.declare(pair={}, graph={"k": 3})
    assert shop.project.materialize()

    for key in (PAIR, dg.AssetKey(["products", "similarity_graph"])):
        metadata = _metadata(shop, key)
        assert "is an image of 4 of 7 items of products" in metadata["common_images"]
        assert "set max_shared: 3" in metadata["common_images"]
        assert "shared_images" not in metadata


def test_ignore_list_and_items_are_upstream_of_the_table(shop: Shop) -> None:
    sha256 = sha256_of(jpeg(2))
    shop.project.write("data/ignore.csv", f"sha256\n{sha256}\n")
    ignore = {"list": "data/ignore.csv"}
    shop.declare(pair={"ignore": ignore, "within": ["url"]}, graph={"k": 3, "ignore": ignore})
    assert shop.project.materialize()

    specs = {spec.key: spec for spec in shop.project.definitions().resolve_all_asset_specs()}
    upstream = {dep.asset_key.to_user_string() for dep in specs[PAIR].deps}
    assert upstream >= {"matches/pair/ignore_list", "products/items", "suppliers/items"}
    reasons = [record.data for record in _metadata(shop, PAIR)["left_out_images"].records]
    assert {"reason": "ignored", "count": 5} in reasons


def test_ignore_lists_and_items_are_upstream_of_groups(shop: Shop) -> None:
    shop.project.write("data/ignore.csv", f"sha256\n{sha256_of(jpeg(2))}\n")
    settings = {"ignore": {"list": "data/ignore.csv"}, "within": ["url"], "threshold": 0.9}
    shop.declare(pair={}, graph={"k": 3}, groups=settings)
    shop.project.declare(
        "all",
        "DuplicateGroupsComponent",
        {"name": "all", "catalogs": ["products", "suppliers"], **settings},
    )
    assert shop.project.materialize()

    specs = {spec.key: spec for spec in shop.project.definitions().resolve_all_asset_specs()}
    for path, catalogs in (
        (["products", "duplicate_groups"], ["products"]),
        (["duplicate_groups", "all"], ["products", "suppliers"]),
    ):
        key = dg.AssetKey(path)
        upstream = {dep.asset_key.to_user_string() for dep in specs[key].deps}
        listed = "/".join([*path, "ignore_list"])
        assert upstream >= {listed, *(f"{name}/items" for name in catalogs)}
        assert dg.AssetKey(listed.split("/")) in specs
        reasons = [record.data for record in _metadata(shop, key)["left_out_images"].records]
        assert any(reason["reason"] == "ignored" for reason in reasons)
    sensors = {sensor.name for sensor in shop.project.definitions().sensors or ()}
    assert {
        "products__duplicate_groups__ignore_list_sensor",
        "duplicate_groups__all__ignore_list_sensor",
    } <= sensors


def test_sensor_observes_the_list_when_it_names_other_images(tmp_path: Path) -> None:
    path = tmp_path / "ignore.csv"
    path.write_text("0" * 64)
    key = dg.AssetKey(["matches", "pair", "ignore_list"])
    listed = ignore_list(key, "matches", IgnoreSettings(list="ignore.csv"), tmp_path)

    first = _tick(listed, None)
    path.write_text("# the same\n" + "0" * 64)
    same = _tick(listed, first.cursor)
    path.write_text("1" * 64)
    other = _tick(listed, first.cursor)

    assert [event.asset_key for event in first.asset_events] == [key]
    assert same.skip_message == "ignore.csv names the same images"
    assert other.cursor != first.cursor


def _tick(listed: ObservedInput, cursor: str | None) -> Any:
    sensor, resources = listed.sensor(), {STORE: StoreResource()}
    definitions = dg.Definitions([listed.asset()], sensors=[sensor], resources=resources)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance,
            cursor=cursor,
            resources=resources,
            repository_def=definitions.get_repository_def(),
        ) as context,
    ):
        return sensor.evaluate_tick(context)


def _rows(shop: Shop) -> list[dict[str, Any]]:
    commit = shop.project.store.table("matches/pair").latest()
    assert commit is not None
    return shop.project.store.table("matches/pair").read(commit).to_dicts()
