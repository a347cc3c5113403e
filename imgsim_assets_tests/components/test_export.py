"""Tables that a project exports beside its store."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import polars as pl

from imgsim_assets.storage.reader import read_table
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

TABLES = ("matches/pair", "products/similarity_graph", "products/duplicate_groups")


def test_matches_graph_and_groups_are_exported_as_delta_tables(tmp_path: Path, web: Web) -> None:
    shop = Shop.open(tmp_path, web, products=5, suppliers=3)
    export = {"export": {"delta": "delta"}}
    shop.declare(pair=export, groups={"threshold": 0.9}, **export)
    assert shop.project.materialize()
    web.pages["/copy.jpg"] = web.pages["/p2.jpg"]
    shop.put_item("copy", 900, path="/copy.jpg")
    assert shop.project.materialize()

    for name in TABLES:
        exported: pl.DataFrame = pl.read_delta(str(shop.project.root / "delta" / name))
        rows = read_table(name, store=shop.project.store).collect()
        assert exported.sort(exported.columns).equals(rows.sort(rows.columns)), name
    with shop.project.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["matches", "pair"]))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["delta_version"].value == 1
    assert metadata["delta_inserted"].value == 1
