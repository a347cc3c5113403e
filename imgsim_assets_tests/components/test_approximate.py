"""`method: approximate` in Dagster and in the shell: checks, metadata, status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.pipeline.check_names import RECALL
from imgsim_assets.similarity.approximate import training
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

PAIR = dg.AssetKey(["matches", "pair"])
GRAPH = dg.AssetKey(["products", "similarity_graph"])
APPROXIMATE = {"method": "approximate", "min_recall": 0.6}


@pytest.fixture
def shop(tmp_path: Path, web: Web) -> Shop:
    return Shop.open(tmp_path, web, products=12, suppliers=12)


def test_declared_results_have_a_recall_and_a_check(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_MIN_ROWS_PER_LIST", 3)
    shop.declare(pair=APPROXIMATE, graph={"k": 3, **APPROXIMATE})
    assert shop.project.materialize()

    with shop.project.instance() as instance:
        for key in (PAIR, GRAPH):
            event = instance.get_latest_materialization_event(key)
            assert event is not None
            assert event.asset_materialization is not None
            values = event.asset_materialization.metadata.items()
            metadata: dict[str, Any] = {name: value.value for name, value in values}
            assert metadata["method"] == "approximate"
            assert "thumbnail" in metadata["encoder"]
            assert 0.6 <= metadata["recall"] <= 1
            assert metadata["recall_sample"] == 12
            check = dg.AssetCheckKey(key, RECALL)
            records = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])
            assert records[check].status.value == "SUCCEEDED"


def test_exact_results_have_no_check_of_the_recall(shop: Shop) -> None:
    shop.declare(pair={}, graph={"k": 3})

    keys = shop.project.definitions().resolve_asset_graph().asset_check_keys
    assert RECALL not in {key.name for key in keys}
