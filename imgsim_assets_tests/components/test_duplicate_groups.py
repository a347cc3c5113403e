"""Duplicate groups through a real Dagster instance, for a catalog that declares them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest

from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.images import encoded, make_image
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

KEY = dg.AssetKey(["products", "duplicate_groups"])
ACROSS = dg.AssetKey(["duplicate_groups", "all"])


@pytest.fixture
def shop(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Shop:
    opened = Shop.open(tmp_path, web, products=4, suppliers=4)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


def test_a_catalog_has_groups_only_if_it_declares_them(shop: Shop) -> None:
    keys = {spec.key for spec in shop.project.definitions().resolve_all_asset_specs()}
    assert KEY not in keys

    shop.declare(groups={})

    definitions = shop.project.definitions()
    assert KEY in {spec.key for spec in definitions.resolve_all_asset_specs()}
    job = definitions.resolve_job_def("products_refresh")
    assert KEY in job.asset_layer.executable_asset_keys


def test_copies_of_an_image_are_shown_as_a_group(shop: Shop) -> None:
    shop.web.pages["/copy.jpg"] = encoded(make_image(1), "JPEG", quality=50)
    shop.put_item("copy", 1, path="/copy.jpg")
    shop.declare(groups={"threshold": 0.95, "canonical": "largest_file"})

    assert shop.project.materialize()

    rows = read_table("products/duplicate_groups", store=shop.project.store).collect()
    assert rows.select("group_id", "id", "is_canonical", "size").rows() == [
        ("p1", "p1", True, 2),
        ("p1", "copy", False, 2),
    ]
    with shop.project.instance() as instance:
        (record,) = instance.fetch_materializations(KEY, limit=1).records
        assert record.asset_materialization is not None
        metadata = record.asset_materialization.metadata
        sheet = metadata["contact_sheet"].value
        assert isinstance(sheet, str)
        assert Path(urlsplit(sheet).path).read_bytes().startswith(b"\xff\xd8")
        assert metadata["groups"].value == 1
        check = dg.AssetCheckKey(KEY, "one_canonical_per_group")
        (execution,) = instance.event_log_storage.get_asset_check_execution_history(check, 1)
        assert execution.status.value == "SUCCEEDED"


def test_suspicious_groups_fail_the_run_with_severity_error(shop: Shop) -> None:
    # Every item is linked to every other one.
    for number in range(10, 18):
        shop.put_item(f"more{number}", number)
    shop.declare(groups={"threshold": -1}, checks={"severity": "error", "max_group_fraction": 0.1})

    assert not shop.project.materialize()

    with shop.project.instance() as instance:
        check = dg.AssetCheckKey(KEY, "groups_coherent")
        (execution,) = instance.event_log_storage.get_asset_check_execution_history(check, 1)
        assert execution.status.value == "FAILED"
        assert execution.evaluation is not None
        assert "12 items" in str(execution.evaluation.metadata["examples"].value)


def test_groups_across_catalogs_are_an_asset_below_their_indexes(shop: Shop) -> None:
    settings = {"name": "all", "catalogs": ["suppliers", "products"], "threshold": 0.95}
    shop.project.declare("all", "DuplicateGroupsComponent", settings)

    assert shop.project.materialize()

    rows = read_table("duplicate_groups/all", store=shop.project.store).collect()
    # Every supplied image but the first is a recompressed one of the products'.
    assert rows.select("group_id", "catalog", "id").rows() == [
        row
        for number in (1, 2, 3)
        for row in (
            (f"suppliers/s{number}", "suppliers", f"s{number}"),
            (f"suppliers/s{number}", "products", f"p{number}"),
        )
    ]
    assert rows["is_canonical"].to_list() == [True, False] * 3
    specs = {spec.key: spec for spec in shop.project.definitions().resolve_all_asset_specs()}
    above = {dep.asset_key.to_user_string() for dep in specs[ACROSS].deps}
    assert above == {
        f"{name}/{stage}" for name in ("suppliers", "products") for stage in ("index", "images")
    }
    with shop.project.instance() as instance:
        (record,) = instance.fetch_materializations(ACROSS, limit=1).records
        assert record.asset_materialization is not None
        metadata = record.asset_materialization.metadata
        sheet = str(metadata["contact_sheet"].value)
        assert Path(urlsplit(sheet).path).read_bytes().startswith(b"\xff\xd8")
        assert metadata["groups"].value == 3
        check = dg.AssetCheckKey(ACROSS, "one_canonical_per_group")
        (execution,) = instance.event_log_storage.get_asset_check_execution_history(check, 1)
        assert execution.status.value == "SUCCEEDED"
