from __future__ import annotations

import pytest

from imgsim_assets.similarity.approximate import training
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions


def test_graph_shows_and_writes_edges(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})

    result = shell("graph", "products", "-k", "2", "--json")
    written = shell("graph", "products", "-k", "2", "--out", "edges.tsv")

    assert result.json["items"] == 4
    assert len(result.json["edges"]) == 8
    assert written.code == 0
    assert shell.table("edges.tsv").height == 8
    assert shell("graph", "nothing").code == 2


def test_graph_with_other_settings_leaves_the_declared_graph_unchanged(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    GraphStage(shell.store, "products", GraphSettings(k=3)).run()
    before = versions(shell.store)

    same = shell("graph", "products", "-k", "3", "--json")
    assert versions(shell.store) == before
    other = [shell("graph", "products", "-k", "1", "--json") for _ in range(2)]

    after = versions(shell.store)
    assert len(same.json["edges"]) == 12
    assert [len(result.json["edges"]) for result in other] == [4, 4]
    assert {name: after.pop(name) for name in before} == before
    ((variant, version),) = after.items()
    assert (variant.split(".")[0], version) == ("products/similarity_graph", 1)
    assert shell("verify").code == 0


def test_approximate_graph_shows_its_recall(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_MIN_ROWS_PER_LIST", 2)
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(12)})
    options = ("--method", "approximate", "--min-recall", "0.6")

    graph = shell("graph", "products", "-k", "2", *options)

    assert "exact pairs of 12 sampled images found, recall" in graph.out
    assert "(approximate, recall" in shell("status").out
    assert shell("verify").code == 0
    assert 0.6 <= shell("graph", "products", "-k", "2", "--json", *options).json["recall"] <= 1
    exact = shell("graph", "products", "-k", "2", "--json").json
    assert (exact["method"], exact["recall"]) == ("exact", None)
    nothing = shell("graph", "products", "--threshold", "1", *options).out
    assert "no pair of 12 sampled images, so no recall is measured" in nothing
    assert "(approximate, recall not measured)" in shell("status").out
    document = shell("graph", "products", "--threshold", "1", "--json", *options).json
    assert (document["method"], document["recall"]) == ("approximate", None)
    assert None in shell("status", "--json").json["catalogs"][0]["recalls"].values()
    exact = shell("graph", "products", "--min-recall", "0.6")
    assert (exact.code, "--min-recall" in exact.err) == (2, True)
