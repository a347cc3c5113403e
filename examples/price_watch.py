"""A separate code location that uses the match table of the demo.

    make demo
    dagster dev -w examples/workspace.yaml

`price_list` reads the whole table, `match_changes` reads the changes since its last run, and
`warehouse` loads the table into DuckDB for SQL. All three run when the matches change.
"""

from pathlib import Path

import dagster as dg
import duckdb
import polars as pl

import imgsim_assets
from imgsim_assets.errors import StoreError

PAIR = "products__suppliers"
TABLE = f"matches/{PAIR}"
GROUP = "price_watch"
ROOT = Path(__file__).parents[1]
OUT = ROOT / "data" / "price_watch"
WHEN_MATCHES_CHANGE = dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.data_version_changed()
).since_last_handled()


@dg.asset(
    ins={"matches": imgsim_assets.match_input(PAIR)},
    group_name=GROUP,
    automation_condition=WHEN_MATCHES_CHANGE,
)
def price_list(matches: pl.LazyFrame) -> dg.MaterializeResult:
    """Each product with the matching article of the supplier, as a CSV file."""
    rows = matches.select("left_id", "right_id", "similarity").sort("left_id").collect()
    OUT.mkdir(parents=True, exist_ok=True)
    rows.write_csv(OUT / "price_list.csv")
    return dg.MaterializeResult(metadata={"dagster/row_count": rows.height})


@dg.asset(deps=[["matches", PAIR]], group_name=GROUP, automation_condition=WHEN_MATCHES_CHANGE)
def match_changes(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The pairs that were added, changed or removed since the last run of this asset."""
    last = context.instance.get_latest_materialization_event(context.asset_key)
    version = last.asset_materialization.metadata["until"].value if last else 0
    try:
        changes = imgsim_assets.read_changes(TABLE, since=version)
    except StoreError:  # garbage collection has deleted that version: report every pair as added
        changes = imgsim_assets.read_changes(TABLE, since=0)
    OUT.mkdir(parents=True, exist_ok=True)
    changes.rows.write_csv(OUT / f"match_changes_{changes.until:06d}.csv")
    counts = dict(changes.rows["change"].value_counts().iter_rows())
    return dg.MaterializeResult(metadata={"until": changes.until, **counts})


@dg.asset(
    ins={"matches": imgsim_assets.match_input(PAIR)},
    group_name=GROUP,
    kinds={"duckdb"},
    automation_condition=WHEN_MATCHES_CHANGE,
)
def warehouse(matches: pl.LazyFrame) -> None:
    """The match table in a DuckDB file."""
    OUT.mkdir(parents=True, exist_ok=True)
    exported = OUT / "matches.parquet"
    matches.sink_parquet(exported)
    with duckdb.connect(OUT / "matches.duckdb") as connection:
        connection.read_parquet(str(exported)).create_view("exported")
        connection.execute("create or replace table matches as from exported")


defs = dg.Definitions(
    assets=[imgsim_assets.match_spec(PAIR), price_list, match_changes, warehouse],
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "price_watch_automation",
            target=dg.AssetSelection.assets(price_list, match_changes, warehouse),
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
    ],
    resources={"imgsim_tables": imgsim_assets.TableIOManager(project_root=str(ROOT))},
)
