"""Run everything under defs/ as `imgsim run` does, and print the results."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import polars as pl

from imgsim_assets.components.charts import match_sheet
from imgsim_assets.components.local_run import run_project
from imgsim_assets.components.metadata import SERVE_URL
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


def run(root: Path) -> int:
    """Run every asset of the project at `root`, show the results, and return the exit code.

    If something failed, only that is shown after the progress.
    """
    report = run_project(root, log=partial(print, flush=True))
    for problem in report.problems():
        print(problem, file=sys.stderr)
    if report.succeeded:
        show(root)
    return 0 if report.succeeded else 1


def show(root: Path) -> None:
    """Print the counts, the matches, and the paths of the results."""
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
    tables = [name.removeprefix("matches/") for name in names if name.startswith("matches/")]
    print("to open Dagster's web server and the pages for review: make ui")
    base = os.environ.get(SERVE_URL, "").rstrip("/")
    for name in tables if base else ():
        print(f"to see and judge the matches there: {base}/review/{name}")


def _show_counts(store: Store, catalog: str) -> None:
    print(f"\n{catalog}: items by the status of their image")
    print(_counts(read_table(f"{catalog}/images", store=store), "status"))
    for title, table, column in (
        ("failed embeddings", "embeddings", "status"),
        ("rejected rows", "rejects", "reason"),
    ):
        if f"{catalog}/{table}" in store.table_names():
            rows = read_table(f"{catalog}/{table}", store=store)
            counts = _counts(rows.filter(pl.col(column) != "ok"), column)
            if counts.height:
                print(f"{catalog}: {title}\n{counts}")


def _counts(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    counts = rows.group_by(column).len("count")
    return counts.sort("count", column, descending=[True, False]).collect()


def _show_matches(store: Store, name: str, root: Path) -> None:
    matches = read_table(name, store=store).collect()
    print(f"\n{name}: {counted(matches.height, 'match', 'matches')}, the most similar first")
    ordered = matches.sort(["similarity", "left_id"], descending=[True, False])
    print(ordered.select("left_id", "right_id", "similarity").head(10))
    if matches.height:
        sheet = root / "data" / "demo" / f"{name.split('/')[-1]}.jpg"
        sheet.write_bytes(match_sheet(store, matches))
        print(f"contact sheet: {sheet}")
