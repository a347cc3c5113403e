"""The pipeline with its store on s3://, and two runs that commit there at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.processes import assert_succeed
from imgsim_assets_tests.support.shop import Shop, results, versions
from imgsim_assets_tests.support.web import Web


@pytest.fixture
def shop(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> Shop:
    opened = Shop.open(tmp_path, web, products=6, suppliers=4)
    monkeypatch.setenv(COUNTER, str(opened.counter))
    return opened


@pytest.mark.slow
def test_the_pipeline_runs_on_an_object_store_and_the_second_run_does_nothing(
    shop: Shop, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = shop.project.store
    assert shop.project.materialize()
    monkeypatch.setenv("IMGSIM_STORE", f"{s3_root}/store")

    assert shop.project.materialize()

    remote = Store.open()
    assert remote.url == f"{s3_root}/store"
    for name, rows in results(local).items():
        assert results(remote)[name].equals(rows), name
    before = (shop.web.total_gets, shop.encodings, versions(remote))
    assert shop.project.materialize()
    assert (shop.web.total_gets, shop.encodings, versions(remote)) == before


@pytest.mark.slow
def test_two_runs_on_one_object_store_end_with_one_correct_result(
    shop: Shop, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = shop.project.store
    assert shop.project.materialize()
    monkeypatch.setenv("IMGSIM_STORE", f"{s3_root}/store")

    assert_succeed(*(shop.project.start(**shop.environment()) for _ in range(2)))

    expected = results(local)
    for name, rows in results(Store.open()).items():
        assert rows.equals(expected[name]), name
