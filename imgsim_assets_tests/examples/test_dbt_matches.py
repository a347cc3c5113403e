"""A real dbt run over a match table, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import duckdb
import polars as pl
import pytest

from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

PROJECT = Path(__file__).parents[2] / "examples" / "dbt_matches"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command dbt; dbt pins packages that the project needs in other versions."""
    folder = tmp_path_factory.mktemp("dbt")
    venv.create(folder, with_pip=True)
    requirements = PROJECT / "requirements.txt"
    subprocess.run([folder / "bin/pip", "install", "-q", "-r", requirements], check=True)
    return folder / "bin/dbt"


def test_dbt_builds_its_models_from_the_newest_match_table(
    store: Store, tmp_path: Path, dbt: Path
) -> None:
    schema = {
        "left_id": pl.String,
        "right_id": pl.String,
        "similarity": pl.Float64,
        "rank": pl.Int32,
    }
    table = store.table("matches/products__suppliers")
    for rows in (
        [("old", "s", 1.0, 1)],
        [("p", "s1", 0.9, 1), ("p", "s2", 0.8, 2), ("q", "s1", 1, 1)],
    ):
        files = [table.write_rows(pl.DataFrame(rows, schema=schema, orient="row"))]
        table.commit(lambda _, files=files: PendingCommit(files))  # type: ignore[misc]
    database = tmp_path / "matches.duckdb"
    environment = {
        **os.environ,
        "IMGSIM_STORE": store.url,
        "MATCHES_DUCKDB": str(database),
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
        "DO_NOT_TRACK": "1",
    }

    done = subprocess.run(
        [dbt, "build", "--project-dir", PROJECT, "--profiles-dir", PROJECT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    with duckdb.connect(str(database)) as connection:
        found = connection.execute("from matched_products order by product_id").fetchall()
    assert found == [("p", "s1", 0.9, 2), ("q", "s1", 1.0, 1)]
