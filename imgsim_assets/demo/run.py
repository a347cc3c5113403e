"""Materializing everything under defs/ with Dagster, and showing what came of it."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import polars as pl

from imgsim_assets.components.charts import match_sheet
from imgsim_assets.definitions import defs as load_definitions
from imgsim_assets.demo.local_run import LocalRun
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store


def run(root: Path) -> int:
    """Materialize every asset in the persistent DAGSTER_HOME; returns the exit status."""
    started = time.monotonic()
    definitions = load_definitions()
    with dg.DagsterInstance.get() as instance:
        succeeded = LocalRun(definitions, instance, log=_log).materialize_everything()
    print(f"\ndone in {time.monotonic() - started:.0f} s")
    show(root)
    return 0 if succeeded else 1


def show(root: Path) -> None:
    """Print what a person wants to see: counts, the matches, and where everything lies."""
    store = Store.open(project_root=root)
    names = store.table_names()
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=12):
        for name in names:
            if name.endswith("/images"):
                _show_counts(store, name.removesuffix("/images"))
        for name in names:
            if name.startswith("matches/"):
                _show_matches(store, name, root)
    print(f"tables and images: {store.url}")
    print("look around in Dagster's UI: make ui")


def _show_counts(store: Store, catalog: str) -> None:
    print(f"\n{catalog}: items by what became of their image")
    images = read_table(f"{catalog}/images", store=store)
    print(_by(images, "status"))
    for table, column in (("embeddings", "status"), ("rejects", "reason")):
        if f"{catalog}/{table}" in store.table_names():
            rows = read_table(f"{catalog}/{table}", store=store)
            failed = rows.filter(pl.col(column) != "ok")
            counts = _by(failed, column)
            if counts.height:
                print(f"{catalog}: {table} that are not ok")
                print(counts)


def _by(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    return (
        rows.group_by(column).len("items").sort("items", column, descending=[True, False]).collect()
    )


def _show_matches(store: Store, name: str, root: Path) -> None:
    matches = read_table(name, store=store).collect()
    print(f"\n{name}: {matches.height} matches, the most similar first")
    ordered = matches.sort(["similarity", "left_id"], descending=[True, False])
    print(ordered.select("left_id", "right_id", "similarity").head(10))
    if matches.height:
        sheet = root / "data" / "demo" / f"{name.split('/')[-1]}.jpg"
        sheet.write_bytes(match_sheet(store, matches))
        print(f"contact sheet: {sheet}")


def _log(line: str) -> None:
    print(line, flush=True)
