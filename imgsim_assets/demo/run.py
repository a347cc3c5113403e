"""Materializing everything under defs/ with Dagster, and showing what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import dagster as dg
import polars as pl

from imgsim_assets.components.pictures import match_sheet
from imgsim_assets.components.refresh import REFRESH, whole_catalogue_tags
from imgsim_assets.definitions import defs as load_definitions
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store

_QUIET = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


def run(root: Path) -> int:
    """Materialize every asset in the persistent DAGSTER_HOME; returns the exit status."""
    started = time.monotonic()
    definitions = load_definitions()
    with dg.DagsterInstance.get() as instance:
        succeeded = materialize_everything(definitions, instance)
    print(f"\ndone in {time.monotonic() - started:.0f} s")
    show(root)
    return 0 if succeeded else 1


def materialize_everything(definitions: dg.Definitions, instance: dg.DagsterInstance) -> bool:
    """Observe the sources, refresh every catalogue, then materialize what lies behind them."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    everything = definitions.resolve_implicit_global_asset_job_def()
    succeeded = _execute("sources", everything, instance, selection=graph.observable_asset_keys)
    remaining = set(graph.materializable_asset_keys)
    for job in repository.get_all_jobs():
        if job.name.endswith(REFRESH):
            tags = whole_catalogue_tags(job.partitions_def)
            succeeded &= _execute(job.name, job, instance, tags=tags)
            remaining -= set(job.asset_layer.executable_asset_keys)
    if remaining:
        names = ", ".join(sorted(key.to_user_string() for key in remaining))
        succeeded &= _execute(names, everything, instance, selection=remaining)
    return succeeded


def _execute(
    title: str,
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    selection: Iterable[dg.AssetKey] | None = None,
    tags: Mapping[str, str] | None = None,
) -> bool:
    print(f"\n== {title}", flush=True)
    started = time.monotonic()
    result = job.execute_in_process(
        instance=instance,
        run_config=_QUIET,
        asset_selection=sorted(selection) if selection is not None else None,
        tags=dict(tags or {}),
        raise_on_error=False,
    )
    for event in result.get_asset_materialization_events():
        print(f"   {_told(event)}")
    print(f"   {'done' if result.success else 'FAILED'} in {time.monotonic() - started:.1f} s")
    return result.success


def _told(event: dg.DagsterEvent) -> str:
    """One line about a materialization: asset, shard, rows, and whether anything changed."""
    materialization = event.step_materialization_data.materialization
    shard = f"[{materialization.partition}]" if materialization.partition else ""
    facts = {name: value.value for name, value in materialization.metadata.items()}
    changed = "changed" if facts.get("changed") else "unchanged"
    name = materialization.asset_key.to_user_string()
    return f"{name}{shard}: {facts.get('dagster/row_count')} rows, {changed}"


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


def _show_counts(store: Store, catalogue: str) -> None:
    print(f"\n{catalogue}: items by what became of their image")
    images = read_table(f"{catalogue}/images", store=store)
    print(_by(images, "status"))
    for table, column in (("embeddings", "status"), ("rejects", "reason")):
        if f"{catalogue}/{table}" in store.table_names():
            rows = read_table(f"{catalogue}/{table}", store=store)
            failed = rows.filter(pl.col(column) != "ok")
            counts = _by(failed, column)
            if counts.height:
                print(f"{catalogue}: {table} that are not ok")
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
