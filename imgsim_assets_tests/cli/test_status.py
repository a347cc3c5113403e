from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
)
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell, match_web_list, unavailable
from imgsim_assets_tests.support.web import Web


def test_status_reports_what_is_fresh_stale_and_failed(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": unavailable})
    name = match_web_list(shell, web)

    before = shell("status", "--json").json
    indexed(shell.store, name, {"0": tiny(1)})
    after = shell("status", name, "--json").json
    printed = shell("status")

    (catalog,) = before["catalogs"]
    assert (catalog["items"], catalog["images"], catalog["vectors"]) == (3, 1, 1)
    assert catalog["failures"] == {"http_404": 1, "http_503": 1}
    assert catalog["retryable"] == 1
    assert catalog["stages"] == {
        "images": "fresh",
        "embeddings": "fresh",
        "index": "fresh",
    }
    assert [match["freshness"] for match in before["matches"]] == ["fresh"]
    assert [match["freshness"] for match in after["matches"]] == ["stale"]
    assert f"{name}: 3 items" in printed.out
    assert shell("status", "shoes").code == 2


def test_status_is_stale_after_another_encoder_of_the_same_items(shell: Shell) -> None:
    images = {str(number): tiny(number) for number in range(4)}
    for name in ("left", "right"):
        indexed(shell.store, name, images)
    pair = MatchMatrixSettings(name="pair", left="left", right="right", threshold=0.5)
    across = CrossCatalogGroupSettings(threshold=0.5)
    MatchPipeline(shell.store, pair).run()
    GraphStage(shell.store, "left", GraphSettings(k=1)).run()
    GroupStage(shell.store, "left", GroupSettings(threshold=0.5)).run()
    GroupStage(shell.store, "both", across, catalogs=["left", "right"]).run()
    before = shell("status", "--json").json

    for name in ("left", "right"):
        indexed(shell.store, name, images, THUMBNAIL.model_copy(update={"version": "2"}))
    after = shell("status", "--json").json

    for status, freshness in ((before, "fresh"), (after, "stale")):
        assert [match["freshness"] for match in status["matches"]] == [freshness]
        assert status["catalogs"][0]["stages"]["similarity_graph"] == freshness
        assert {group["table"]: group["freshness"] for group in status["groups"]} == {
            "duplicate_groups/both": freshness,
            "left/duplicate_groups": freshness,
        }
    assert after["catalogs"][0]["stages"]["index"] == "fresh"
    assert "duplicate_groups/both: 4 groups of 8 items of left and right, at 0.5" in (
        shell("status").out
    )


def test_status_of_a_match_table_names_its_threshold_if_it_has_one(shell: Shell) -> None:
    for name in ("left", "right"):
        indexed(shell.store, name, {str(number): tiny(number) for number in range(2)})
    for name, threshold in (("near", 0.5), ("every", None)):
        values = {"name": name, "left": "left", "right": "right", "mode": "top_k", "k": 1}
        pair = MatchMatrixSettings.model_validate({**values, "threshold": threshold})
        MatchPipeline(shell.store, pair).run()

    printed = shell("status").out

    assert "left and right, top_k at 0.5, fresh" in printed
    assert "left and right, top_k without a threshold, fresh" in printed


def test_status_of_groups_is_stale_after_an_item_left_an_index(shell: Shell) -> None:
    indexed(shell.store, "shop", {"a": tiny(1), "b": tiny(2)})
    GroupStage(shell.store, "shop", GroupSettings(threshold=0.5)).run()
    indexed(shell.store, "shop", {"a": tiny(1)})

    (group,) = shell("status", "--json").json["groups"]

    assert group["freshness"] == "stale"


def test_status_is_empty_where_no_item_has_an_image(shell: Shell, web: Web) -> None:
    name = match_web_list(shell, web)

    (catalog,) = shell("status", name, "--json").json["catalogs"]

    assert (catalog["items"], catalog["images"]) == (3, 0)
    assert set(catalog["stages"].values()) == {"empty"}


def test_status_counts_items_and_images(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "id,url\na,1.jpg|2.jpg|ftp://h/x\nb,missing.jpg\nc,\n")
    matched = shell.match("list.csv", "list.csv", "--separator", "|")

    status = shell("status", "--json").json
    printed = shell("status")

    [catalog] = status["catalogs"]
    assert (catalog["items"], catalog["usable_items"]) == (2, 1)
    assert (catalog["images"], catalog["vectors"]) == (2, 2)
    assert (catalog["rejects"], catalog["rejected_images"]) == (1, 1)
    assert [match["freshness"] for match in status["matches"]] == ["fresh"]
    assert "rejected rows: 1, images: 1; to see them: imgsim failures" in printed.out
    assert "list.csv: 2 items with 3 images, 1 usable" in matched.out
    assert "rejected rows: 1, images: 1" in matched.out

    for path in Path(shell.store.url).glob("*/rejects/data/*"):
        path.unlink()
    damaged = shell("status", "--json")
    [catalog] = damaged.json["catalogs"]
    assert (damaged.code, catalog["rejects"], catalog["items"]) == (3, None, 2)


_TABLES = {
    *("left images", "left embeddings", "left index", "left similarity_graph"),
    *("right images", "right embeddings", "right index", "left/duplicate_groups", "pair"),
}
# What depends on a table.
_DEPENDENT = {
    "left/images": {"left images", "left embeddings"},
    "left/embeddings": {"left embeddings", "left index", "pair"},
    "left/index": {"left index", "left similarity_graph", "left/duplicate_groups"},
    "left/similarity_graph": {"left similarity_graph"},
    "left/duplicate_groups": {"left/duplicate_groups"},
    "matches/pair": {"pair"},
}


@pytest.fixture
def tables(shell: Shell) -> Shell:
    """A store with all tables of two catalogs."""
    images = {str(number): tiny(number) for number in range(4)}
    for name in ("left", "right"):
        indexed(shell.store, name, images)
    pair = MatchMatrixSettings(name="pair", left="left", right="right", threshold=0.5)
    MatchPipeline(shell.store, pair).run()
    GraphStage(shell.store, "left", GraphSettings(k=1)).run()
    GroupStage(shell.store, "left", GroupSettings(threshold=0.5)).run()
    return shell


def test_status_does_not_call_a_table_fresh_of_which_a_file_is_cut_or_lost(tables: Shell) -> None:
    lost = {
        "left/vectors": "left embeddings",
        "left/index": "left index",
        "left/similarity_graph": "left similarity_graph",
        "left/duplicate_groups": "left/duplicate_groups",
        "matches/pair": "pair",
    }
    intact = _states(tables("status", "--json").json)
    for table, state in lost.items():
        for path in (Path(tables.store.url) / table).glob("**/data/*"):
            data = path.read_bytes()
            for damaged in (data[:-1], None):
                path.unlink() if damaged is None else path.write_bytes(damaged)
                result = tables("status", "--json")
                path.write_bytes(data)

                states = _states(result.json)
                assert (result.code, states[state]) == (3, "unknown")
                assert any(str(path) in problem for problem in result.json["problems"])
    assert _states(tables("status", "--json").json) == intact


def test_counts_of_a_damaged_ledger_are_unknown(tables: Shell) -> None:
    for path in (Path(tables.store.url) / "left/images").glob("**/*.parquet"):
        path.write_bytes(b"{")

    status = tables("status", "left", "--json").json
    printed = tables("status", "left").out

    [catalog] = status["catalogs"]
    assert (catalog["images"], catalog["retryable"], catalog["vectors"]) == (None, None, 4)
    assert "unknown images, 4 vectors by " in printed
    assert "'imgsim verify' reads everything" in printed


@pytest.mark.parametrize("pattern", ["**/*.parquet", "_commits/*"])
def test_status_names_a_damaged_table_and_shows_all_others(pattern: str, tables: Shell) -> None:
    shell = tables
    assert _states(shell("status", "--json").json).keys() == _TABLES

    for table, dependent in _DEPENDENT.items():
        files = list((Path(shell.store.url) / table).glob(pattern))
        intact = {path: path.read_bytes() for path in files}
        for path in files:
            path.write_bytes(b"{")
        result = shell("status", "--json")
        printed = shell("status").out
        for path, data in intact.items():
            path.write_bytes(data)

        states = _states(result.json)
        unknown = {name for name in _TABLES if states.get(name, "unknown") == "unknown"}
        assert (result.code, unknown) == (3, dependent)
        for problem in result.json["problems"]:
            assert table in problem
            assert "; " in problem
            assert f"problem: {problem}" in printed


def _states(status: dict[str, Any]) -> dict[str, str]:
    states = {
        f"{catalog['name']} {stage}": state
        for catalog in status["catalogs"]
        for stage, state in catalog["stages"].items()
    }
    states |= {match["name"]: match["freshness"] for match in status["matches"]}
    return states | {group["table"]: group["freshness"] for group in status["groups"]}
