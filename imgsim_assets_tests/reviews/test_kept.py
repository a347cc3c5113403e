"""People's decisions outlive everything that can be computed again."""

from __future__ import annotations

import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_make_clean_keeps_decisions_about_matches_and_groups(tmp_path: Path) -> None:
    kept = ("reviews/pair/data/a.parquet", "reviews/groups/shop/data/b.parquet")
    deleted = ("matches/pair/data/c.parquet", "thresholds/pair/data/d.parquet", "_blobs/e.pack")
    for name in (*kept, *deleted):
        path = tmp_path / "data" / "store" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"rows")
    (tmp_path / "data" / "dagster_home").mkdir()

    subprocess.run(["make", "-s", "-f", MAKEFILE, "clean"], cwd=tmp_path, check=True)

    left = {path for path in (tmp_path / "data" / "store").rglob("*") if path.is_file()}
    assert left == {tmp_path / "data" / "store" / name for name in kept}
