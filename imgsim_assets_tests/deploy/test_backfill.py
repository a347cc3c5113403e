"""Backfills with PostgreSQL, an object store and each engine: the tables of one machine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgsim_assets_tests.deploy import engines
from imgsim_assets_tests.deploy.deployment import Deployment, deployed, update
from imgsim_assets_tests.deploy.engines import Engine

pytestmark = pytest.mark.slow

EVERYTHING = [
    *(f"{name}/{stage}" for name in ("products", "suppliers") for stage in ("items", "images")),
    *(f"{name}/{stage}" for name in ("products", "suppliers") for stage in ("embeddings", "index")),
    "products/similarity_graph",
    "matches/pair",
]


@pytest.mark.parametrize("make", [engines.local, engines.ray, engines.celery])
def test_backfills_in_several_runs_give_the_tables_of_one_machine(
    make: Callable[[Path], Engine],
    tmp_path: Path,
    localbucket_root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with deployed(make, tmp_path, localbucket_root, monkeypatch) as deployment:
        backfill = deployment.servers.launch(EVERYTHING)

        assert deployment.servers.ended(backfill, 1800) == "COMPLETED_SUCCESS"
        assert len(deployment.servers.runs_of(backfill)) >= 4
        deployment.assert_store_has(deployment.first)

        _update_while_a_worker_is_killed(deployment)
        deployment.assert_store_has(deployment.second)


def _update_while_a_worker_is_killed(deployment: Deployment) -> None:
    """Backfill what changed, and kill a worker amid its downloads."""
    servers, web = deployment.servers, deployment.shop.web
    update(deployment.shop)
    pages = deployment.shop.slow_down(3.0)
    before = web.total_gets
    backfill = servers.launch(EVERYTHING)
    servers.wait_for(lambda: web.total_gets > before + 2, "the first downloads", 900)
    time.sleep(6)  # downloads are committed every five seconds

    run, processes = servers.wait_for(deployment.working_run, "a run that works", 600)
    if deployment.engine.workers:
        deployment.daemons.kill(deployment.worker_of(processes))
    else:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    web.pages.update(pages)

    if deployment.engine.notices_death:
        assert servers.ended(backfill, 1800) == "COMPLETED_SUCCESS"
        assert servers.retried_runs_of(backfill)
    else:
        servers.terminate(run, at_once=True)
        assert servers.ended(backfill, 1800) == "COMPLETED_FAILED"
        assert servers.ended(servers.retry_failed_runs(backfill), 1800) == "COMPLETED_SUCCESS"
