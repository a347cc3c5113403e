"""Audits: whole tables are read by a job of their own, and by no run that materializes."""

from __future__ import annotations

import dagster as dg
import pytest

from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.check_result import CheckResult
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import Shop

EMBEDDINGS = dg.AssetKey(["products", "embeddings"])
AUDITS = {
    "products_audit": {"all_vectors_normalized", "recall_at_10", "agrees_with_brute_force"},
    "matches__pair_audit": {"agrees_with_brute_force"},
}


@pytest.fixture
def shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def _results(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def _materialize(
    shop: Shop, instance: dg.DagsterInstance, *keys: dg.AssetKey
) -> dg.ExecuteInProcessResult:
    """What the UI and `dg launch --assets` start: the assets, and all of their checks."""
    job = shop.project.definitions().resolve_implicit_global_asset_job_def()
    tags = {
        "dagster/asset_partition_range_start": "000",
        "dagster/asset_partition_range_end": "002",
    }
    return job.execute_in_process(instance=instance, asset_selection=list(keys), tags=tags)


@pytest.mark.parametrize("job", AUDITS)
def test_audit_job_evaluates_the_audits_and_materializes_nothing(shop: Shop, job: str) -> None:
    with shop.project.instance() as instance:
        result = (
            shop.project.definitions().resolve_job_def(job).execute_in_process(instance=instance)
        )

    assert _results(result) == dict.fromkeys(AUDITS[job], True)
    assert result.get_asset_materialization_events() == []


def test_run_that_materializes_repeats_the_last_audit_and_reads_no_vectors(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = dg.AssetCheckKey(EMBEDDINGS, "all_vectors_normalized")
    with shop.project.instance() as instance:
        assert "all_vectors_normalized" not in _results(_materialize(shop, instance, EMBEDDINGS))
        with monkeypatch.context() as patch:
            broken = CheckResult({"bad": 7}, "broken")
            patch.setattr(checks, "vectors_normalized", lambda *_: broken)
            alone = shop.project.definitions().resolve_job_def("products_audit")
            assert not _results(alone.execute_in_process(instance=instance))[audit.name]

        vector_files = _vector_files(shop)
        read = _paths_read(monkeypatch)
        result = _materialize(shop, instance, EMBEDDINGS)
        (repeated,) = (
            each for each in result.get_asset_check_evaluations() if each.check_name == audit.name
        )

    assert not repeated.passed
    assert repeated.metadata["bad"].value == 7
    assert repeated.description == "broken"
    assert any("products/embeddings/data" in path for path in read)
    assert not vector_files & set(read)


def _paths_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the store that are read from now on."""
    paths: list[str] = []
    original = LocalFiles.read

    def read(self: LocalFiles, path: str) -> bytes:
        paths.append(path)
        return original(self, path)

    monkeypatch.setattr(LocalFiles, "read", read)
    return paths


def _vector_files(shop: Shop) -> set[str]:
    store = shop.project.store
    names = [name for name in store.table_names() if "/vectors/" in name]
    commits = {name: store.table(name).latest() for name in names}
    return {
        f"{name}/{file.path}"
        for name, commit in commits.items()
        if commit is not None
        for file in commit.files_with_role()
    }


def test_audits_run_on_the_declared_schedule(shop: Shop) -> None:
    shop.declare(checks={"audit_schedule": "0 4 * * 6"}, pair={"checks": {"audit_schedule": None}})

    schedules = shop.project.definitions().get_repository_def().schedule_defs

    crons = {each.name: each.cron_schedule for each in schedules}
    assert crons == {
        "products_audit_schedule": "0 4 * * 6",
        "suppliers_audit_schedule": "0 5 * * 0",
    }
