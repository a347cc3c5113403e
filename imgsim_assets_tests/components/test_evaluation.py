"""The report about an encoder, and a threshold that follows it, through Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.evaluation.operating_points import floor_to_grid
from imgsim_assets.similarity.calibration import calibration_table
from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web
from imgsim_assets_tests.support.weights import save_weights, untrained

PAIR = {"name": "pair", "left": "products", "right": "suppliers", "threshold": "auto"}
GROUPS = {"name": "all", "catalogs": ["products", "suppliers"], "threshold": "auto"}


def test_match_table_follows_the_evaluation_of_its_catalog(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web, products=36)
    shop.declare(evaluation={"sample_size": 3, "false_matches": "5%"})
    shop.project.declare("pair", "MatchMatrixComponent", {**PAIR, "false_matches": "5%"})

    assert shop.project.materialize()

    stored = calibration_table(shop.project.store, "products", 0.05).latest()
    assert stored is not None
    with shop.project.instance() as instance:
        metadata = _metadata(instance, ["products", "encoder_evaluation"])
        matched = _metadata(instance, ["matches", "pair"])
    assert matched["threshold"] == metadata["recommended_threshold"]
    assert matched["threshold_source"] == (
        "auto: at most 5 % of the items get a false match, as measured on 36 items of products"
    )
    assert metadata["threshold_calibrated"]
    low, high = str(metadata["threshold_interval"]).split(" to ")
    assert float(low) <= matched["threshold"] <= float(high)
    assert str(metadata["recall"]).startswith("![recall by kind of edit](data:image/svg")
    assert str(metadata["trade_off"]).endswith("-trade_off.svg")
    listed = [record.data for record in metadata["thresholds"].records]
    assert floor_to_grid(matched["threshold"]) in [row["threshold"] for row in listed]
    assert str(metadata["different_images"]).startswith("![null distribution](data:image/svg")
    assert shop.project.definitions().resolve_asset_graph().get(
        dg.AssetKey(["matches", "pair"])
    ).parent_keys >= {dg.AssetKey(["products", "encoder_evaluation"])}


@pytest.mark.slow
def test_evaluation_runs_in_the_gpu_pool_with_the_declared_encoder(
    tmp_path: Path, web: Web
) -> None:
    shop = Shop.open(tmp_path, web)
    weights = shop.project.root / "first.pth"
    save_weights(untrained("squeezenet1_1"), weights)
    encoder = {"name": "squeezenet1_1", "device": "cpu", "weights": "first.pth"}
    shop.declare(suppliers={"encoder": encoder}, encoder=encoder, evaluation={"sample_size": 2})
    assert shop.project.materialize()

    weights.rename(weights.with_name("moved.pth"))
    encoder = {**encoder, "weights": "moved.pth"}
    shop.declare(suppliers={"encoder": encoder}, encoder=encoder, evaluation={"sample_size": 1})

    assert shop.project.materialize()
    assets = shop.project.definitions().resolve_asset_graph()
    node = assets.get(dg.AssetKey(["products", "encoder_evaluation"]))
    assert node.pools == {"gpu"}


def test_graph_and_groups_follow_the_evaluation_of_their_catalog(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    shop.put_item("twin", 5)
    shop.declare(
        evaluation={"sample_size": 3},
        graph={"k": 3, "threshold": "auto"},
        groups={"threshold": "auto"},
    )

    assert shop.project.materialize()

    with shop.project.instance() as instance:
        evaluation = _metadata(instance, ["products", "encoder_evaluation"])
        graph = _metadata(instance, ["products", "similarity_graph"])
        groups = _metadata(instance, ["products", "duplicate_groups"])
    threshold = evaluation["recommended_threshold"]
    assert graph["threshold"] == threshold
    # Too few items to measure: groups, by which people delete, are stricter.
    assert groups["threshold"] == pytest.approx((threshold + 1) / 2)
    edges = read_table("products/similarity_graph", store=shop.project.store).collect()
    assert edges.height
    assert edges["similarity"].min() >= threshold
    grouped = read_table("products/duplicate_groups", store=shop.project.store).collect()
    assert set(grouped["id"]) >= {"p5", "twin"}
    dependencies = {
        spec.key.path[-1]: {dep.asset_key.path[-1] for dep in spec.deps}
        for spec in shop.project.definitions().resolve_all_asset_specs()
        if spec.key.path[0] == "products"
    }
    assert dependencies["similarity_graph"] == {"index", "encoder_evaluation"}
    assert dependencies["duplicate_groups"] == {"index", "images", "encoder_evaluation"}


def test_auto_threshold_needs_no_declared_evaluation(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    shop.declare(graph={"k": 3, "threshold": "auto"}, groups={"threshold": "auto"})
    shop.project.declare("pair", "MatchMatrixComponent", PAIR)
    shop.project.declare("all", "DuplicateGroupsComponent", GROUPS)

    assert shop.project.materialize()

    keys = (
        ["products", "similarity_graph"],
        ["products", "duplicate_groups"],
        ["matches", "pair"],
        ["duplicate_groups", "all"],
    )
    with shop.project.instance() as instance:
        results = [_metadata(instance, key) for key in keys]
    # Without a measurement, groups are stricter than edges and matches.
    assert [result["threshold"] for result in results] == [0.845, 0.9225, 0.845, 0.9225]
    assert all(
        "fewer than the 30 different items" in result["threshold_source"] for result in results
    )


def test_too_small_catalog_fails_threshold_calibrated(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    shop.declare(evaluation={"sample_size": 3})

    assert shop.project.materialize()

    key = dg.AssetCheckKey(dg.AssetKey(["products", "encoder_evaluation"]), "threshold_calibrated")
    with shop.project.instance() as instance:
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    assert record.event.dagster_event is not None
    evaluation = record.event.dagster_event.asset_check_evaluation_data
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["budget"].value == 0.01
    with shop.project.instance() as instance:
        metadata = _metadata(instance, ["products", "encoder_evaluation"])
    # The interval of too few items is not that of the threshold.
    assert metadata["recommended_threshold"] == 0.845
    assert "threshold_interval" not in metadata


def _metadata(instance: dg.DagsterInstance, key: list[str]) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(key))
    assert event is not None
    materialization = event.asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}
