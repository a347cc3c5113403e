"""Links from a version of a table to the asset and the run in Dagster that made it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from imgsim_assets.storage.commit import Commit


class Origin(NamedTuple):
    """Where a version of a table comes from; without a Dagster URL there are no links."""

    table: str
    version: int
    run_id: str | None
    asset_url: str | None
    run_url: str | None


def origin_of(commit: Commit, dagster_url: str | None) -> Origin:
    """The asset and the run of a commit.

    Args:
        commit: a version of a table, whose name is the key of its asset.
        dagster_url: of Dagster's web server; None if it is not known.
    """
    base = dagster_url.rstrip("/") if dagster_url else None
    run_id = commit.run_id
    return Origin(
        commit.table,
        commit.version,
        run_id,
        f"{base}/assets/{quote(commit.table)}" if base else None,
        f"{base}/runs/{quote(run_id, safe='')}" if base and run_id else None,
    )
