"""The report about an encoder, and a threshold that follows it, through Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTreeException

from imgsim_assets.encoders.report import report_table
from imgsim_assets.errors import SettingsError
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

PAIR = {"name": "pair", "left": "products", "right": "suppliers", "threshold": "auto"}
GROUPS = {"name": "all", "catalogues": ["products", "suppliers"], "threshold": "auto"}


def test_a_match_table_follows_the_report_of_its_catalogue(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    shop.declare(report={"sample": 3, "false_per_million": 100_000})
    shop.project.declare("pair", "MatchMatrix", PAIR)

    assert shop.project.materialize()

    report = report_table(shop.project.store, "products").latest()
    assert report is not None
    threshold = report.properties["recommended_threshold"]
    assert report.properties["is_measured"]
    with shop.project.instance() as instance:
        metadata = _metadata(instance, ["products", "encoder_report"])
        matched = _metadata(instance, ["matches", "pair"])
    assert matched["threshold"] == threshold
    assert metadata["recommended_threshold"] == threshold
    assert str(metadata["recall"]).startswith("![recall by kind of edit](data:image/svg")
    assert str(metadata["different_pictures"]).startswith("![null distribution](data:image/svg")


def test_a_threshold_that_follows_no_report_is_refused_at_load(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web)
    shop.project.declare("pair", "MatchMatrix", PAIR)

    with pytest.raises(ComponentTreeException) as raised:
        shop.project.definitions()

    cause = raised.value.__cause__
    assert isinstance(cause, SettingsError)
    assert "attributes.threshold: auto needs a report" in str(cause)
    assert "of products or suppliers, or give a number" in str(cause)


def test_groups_across_catalogues_follow_the_report_of_one_of_them(
    tmp_path: Path, web: Web
) -> None:
    shop = Shop.open(tmp_path, web)
    shop.declare(report={"sample": 3, "false_per_million": 100_000})
    shop.project.declare("all", "DuplicateGroups", GROUPS)

    assert shop.project.materialize()

    report = report_table(shop.project.store, "products").latest()
    assert report is not None
    with shop.project.instance() as instance:
        grouped = _metadata(instance, ["duplicate_groups", "all"])
    assert grouped["threshold"] == report.properties["recommended_threshold"]


def test_groups_across_catalogues_that_follow_no_report_are_refused_at_load(
    tmp_path: Path, web: Web
) -> None:
    shop = Shop.open(tmp_path, web)
    shop.project.declare("all", "DuplicateGroups", GROUPS)

    with pytest.raises(ComponentTreeException) as raised:
        shop.project.definitions()

    assert "attributes.threshold: auto needs a report" in str(raised.value.__cause__)


def _metadata(instance: dg.DagsterInstance, key: list[str]) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(key))
    assert event is not None
    materialization = event.asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}
