"""The example reads a real store through its definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest

from examples import price_watch
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

ASSETS = ("price_list", "match_changes", "warehouse")


def _commit_matches(store: Store, pairs: dict[tuple[str, str], float]) -> None:
    rows = [(left, right, value, 1) for (left, right), value in sorted(pairs.items())]
    frame = pl.DataFrame(
        rows,
        schema=["left_id", "right_id", "similarity", "rank"],
        orient="row",
    )
    table = store.table(price_watch.TABLE)
    table.commit(lambda _: PendingCommit([table.write_rows(frame)]))


def _run(home: Path) -> dict[str, dict[str, Any]]:
    keys = [dg.AssetKey(name) for name in ASSETS]
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        job = price_watch.defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, asset_selection=keys).success
        newest = {key: instance.get_latest_materialization_event(key) for key in keys}
    metadata_by_asset: dict[str, dict[str, Any]] = {}
    for key, event in newest.items():
        assert event is not None
        materialization = event.asset_materialization
        assert materialization is not None
        metadata = materialization.metadata
        metadata_by_asset[key.to_user_string()] = {
            name: value.value for name, value in metadata.items() if "/" not in name
        }
    return metadata_by_asset


def test_first_run_reads_everything_and_later_runs_read_the_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    monkeypatch.setenv("IMGSIM_STORE", store.url)
    monkeypatch.setattr(price_watch, "OUT", out)
    _commit_matches(store, {("p1", "s1"): 0.9, ("p2", "s2"): 0.8})
    first = _run(home)
    _commit_matches(store, {("p1", "s1"): 0.95, ("p3", "s2"): 0.8})
    _commit_matches(store, {("p1", "s1"): 0.95, ("p4", "s2"): 0.8})

    second = _run(home)

    assert first["match_changes"] == {"until": 1, "added": 2}
    assert second["match_changes"] == {"until": 3, "added": 1, "changed": 1, "removed": 1}
    assert (out / "price_list.csv").read_text() == (
        "left_id,right_id,similarity\np1,s1,0.95\np4,s2,0.8\n"
    )
    with duckdb.connect(out / "matches.duckdb") as connection:
        assert connection.sql("select count(*), max(similarity) from matches").fetchall() == [
            (2, 0.95)
        ]


def test_all_matches_are_changes_since_a_deleted_version(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("IMGSIM_STORE", store.url)
    monkeypatch.setattr(price_watch, "OUT", tmp_path / "out")
    _commit_matches(store, {("p1", "s1"): 0.9})
    _run(home)
    _commit_matches(store, {("p1", "s1"): 0.9, ("p2", "s2"): 0.8})
    (Path(store.url) / price_watch.TABLE / "_commits" / f"{1:012d}.json").unlink()

    assert _run(home)["match_changes"] == {"until": 2, "added": 2}


def test_assets_run_only_when_the_matches_change(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        _report_matches(instance, "1")
        done = dg.evaluate_automation_conditions(defs=price_watch.defs, instance=instance)
        counts = []
        for version in ("1", "2"):
            _report_matches(instance, version)
            done = dg.evaluate_automation_conditions(
                defs=price_watch.defs, instance=instance, cursor=done.cursor
            )
            counts.append([done.get_num_requested(dg.AssetKey(name)) for name in ASSETS])

    assert counts == [[0, 0, 0], [1, 1, 1]]


def _report_matches(instance: dg.DagsterInstance, data_version: str) -> None:
    """Report a materialization of the match table, as the other code location does."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            ["matches", price_watch.PAIR], tags={"dagster/data_version": data_version}
        )
    )


def test_match_table_is_an_asset_of_the_example() -> None:
    keys = price_watch.defs.resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["matches", price_watch.PAIR]) in keys
