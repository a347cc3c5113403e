"""A daily partitioned consumer: the matches that each day added, changed and removed.

    make demo
    dagster dev -f examples/daily_report.py

A partition is a day in UTC. It compares the last version before the day with the last one within
it, so that a partition can be materialized again as long as retention keeps both versions.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

import imgsim_assets
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

PAIR = "products__suppliers"
TABLE = f"matches/{PAIR}"
OUT = Path(__file__).parents[1] / "data" / "daily_report"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_offset=1)


@dg.asset(deps=[["matches", PAIR]], partitions_def=DAYS, group_name="daily_report")
def daily_matches(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The changes of one day, as a CSV file."""
    start = datetime.fromisoformat(context.partition_key).replace(tzinfo=UTC)
    table = Store.open().table(TABLE)
    since, until = (_last_version(table, at) for at in (start, start + timedelta(days=1)))
    if until == since:
        return dg.MaterializeResult(metadata={"dagster/row_count": 0, "until": until})
    changes = imgsim_assets.read_changes(TABLE, since=since, until=until).rows
    OUT.mkdir(parents=True, exist_ok=True)
    changes.write_csv(OUT / f"{context.partition_key}.csv")
    return dg.MaterializeResult(metadata={"dagster/row_count": changes.height, "until": until})


def _last_version(table: Table, before: datetime) -> int:
    """The newest version that was committed before a time; 0 without one."""
    for version in reversed(table.versions()):
        if datetime.fromisoformat(table.at(version).committed_at) < before:
            return version
    return 0


@dg.failure_hook(name="report_failure")
def report_failure(context: dg.HookContext) -> None:
    """Called for each step that fails; replace the log by an e-mail or a chat message."""
    context.log.error(f"{context.job_name}: {context.step_key} failed: {context.op_exception}")


job = dg.define_asset_job("daily_report", selection=[daily_matches], hooks={report_failure})
defs = dg.Definitions(
    assets=[imgsim_assets.match_spec(PAIR), daily_matches],
    jobs=[job],
    schedules=[dg.build_schedule_from_partitioned_job(job, hour_of_day=6)],
    resources={"imgsim_tables": imgsim_assets.TableIOManager()},
)
