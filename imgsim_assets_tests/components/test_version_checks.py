"""What the check of drift compares, on a graph that is committed without Dagster."""

from __future__ import annotations

import dagster as dg
import pytest

from imgsim_assets.components.image_catalog.version_checks import check_drift
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.similarity.graph import GraphStage, graph_table
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny

_STRICT = CheckSettings(max_drift=0.0)


@pytest.fixture
def store(store: Store) -> Store:
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(6)})
    return store


def _drift_of(store: Store, settings: GraphSettings) -> dg.AssetCheckResult:
    report = GraphStage(store, "shop", settings).run()
    table = graph_table(store, "shop")
    return check_drift(table, table.at(report.version), _STRICT)


def test_other_images_drift(store: Store) -> None:
    settings = GraphSettings(k=2)
    first = _drift_of(store, settings)
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(20, 26)})
    second = _drift_of(store, settings)

    assert first.passed
    assert first.metadata["compared_with"].value == "nothing"
    assert not second.passed
    assert second.metadata["compared_with"].value == "version 1"


def test_settings_that_changed_are_no_drift_however_often_it_is_looked_at(store: Store) -> None:
    _drift_of(store, GraphSettings(k=1))

    for _ in range(2):
        check = _drift_of(store, GraphSettings(k=5))
        assert check.passed
        assert check.metadata["compared_with"].value == "nothing: settings changed"


def test_another_encoder_is_no_drift(store: Store) -> None:
    _drift_of(store, GraphSettings(k=2))
    other = THUMBNAIL.model_copy(update={"version": "2"})
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(20, 26)}, other)

    assert _drift_of(store, GraphSettings(k=2)).passed
