"""The daily partitioned example over versions of several days."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from examples import daily_report
from imgsim_assets.storage import table as table_module
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store


def _commit(
    store: Store, monkeypatch: pytest.MonkeyPatch, day: str, pairs: dict[str, float]
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)

    monkeypatch.setattr(table_module, "datetime", Clock)
    rows = pl.DataFrame(
        {"left_id": list(pairs), "right_id": list(pairs), "similarity": pairs.values()}
    )
    table = store.table(daily_report.TABLE)
    files = [table.write_rows(rows)]
    table.commit(lambda _: PendingCommit(files))


def test_each_day_reports_its_own_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_STORE", store.url)
    monkeypatch.setattr(daily_report, "OUT", tmp_path)
    _commit(store, monkeypatch, "2026-03-01", {"a": 0.5, "b": 0.5})
    _commit(store, monkeypatch, "2026-03-03", {"a": 0.75, "b": 0.5})
    _commit(store, monkeypatch, "2026-03-03", {"a": 0.75, "c": 0.5})
    job = daily_report.defs.resolve_job_def("daily_report")

    for day in ("2026-03-01", "2026-03-02", "2026-03-03"):
        with dg.DagsterInstance.ephemeral() as instance:
            assert job.execute_in_process(partition_key=day, instance=instance).success

    written = {path.stem: pl.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert set(written) == {"2026-03-01", "2026-03-03"}
    assert written["2026-03-01"]["change"].to_list() == ["added", "added"]
    changed = written["2026-03-03"].select("change", "left_id").rows()
    assert changed == [("changed", "a"), ("removed", "b"), ("added", "c")]
