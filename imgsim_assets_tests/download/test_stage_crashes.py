from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgsim_assets_tests.support.crash_sweep import KILLED
from imgsim_assets_tests.support.downloads import Catalog, quick
from imgsim_assets_tests.support.faulty_server import Shop, response
from imgsim_assets_tests.support.images import jpeg

_PROJECT = Path(__file__).parents[2]
ITEMS = 4


def check_invariants(things: Catalog, acknowledged: dict[str, str]) -> dict[str, str]:
    """Every good row has its bytes, keys are unique, and nothing acknowledged is lost.

    Returns what is acknowledged now: ids of good rows and their sha256.
    """
    if things.table.latest() is None:
        assert not acknowledged
        return {}
    frame = things.frame()
    assert frame["id"].is_unique().all()
    good = {row["id"]: row["sha256"] for row in frame.iter_rows(named=True) if row["sha256"]}
    for sha256 in good.values():
        assert hashlib.sha256(things.store.blobs.get(sha256)).hexdigest() == sha256
    assert acknowledged.items() <= good.items()
    versions = things.table.versions()
    assert versions == list(range(1, len(versions) + 1))
    return good


def stocked(things: Catalog, shop: Shop, count: int = ITEMS) -> dict[str, str]:
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(count)})
    urls = {f"item {number:03}": shop.url(f"/{number}") for number in range(count)}
    things.declare(urls)
    return urls


def sweep(things: Catalog, first: int) -> tuple[int, dict[str, str]]:
    """End the stage at every I/O call from the first on; how many calls, and what is there."""
    options = {
        "store": things.store.url,
        "settings": quick().model_dump(mode="json"),
        "first": first,
    }
    acknowledged: dict[str, str] = {}
    attempts = 0
    with subprocess.Popen(
        [sys.executable, "-m", "imgsim_assets_tests.support.crash_sweep", json.dumps(options)],
        cwd=_PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            acknowledged = check_invariants(things, acknowledged)
            if int(line) == 0:
                break
            assert int(line) == KILLED
            attempts += 1
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdin.close()
    return attempts, acknowledged


def test_crash_at_any_io_call_loses_no_committed_row(things: Catalog, shop: Shop) -> None:
    urls = stocked(things, shop)
    attempts, acknowledged = sweep(things, first=1)
    # Reading the catalog, the pack with its writes, sync and rename, a file, its commit.
    assert attempts > 20
    assert acknowledged.keys() == urls.keys()
    assert [report.requested for report in things.run()] == [0]


@pytest.mark.slow
def test_runs_killed_at_random_times_lose_no_committed_row(things: Catalog, shop: Shop) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    urls = stocked(things, shop, 400)
    acknowledged: dict[str, str] = {}
    for _ in range(20):
        run = things.start(quick(max_per_host=4), commit_every=0.05)
        time.sleep(chance.uniform(0.3, 2.5))
        run.kill()
        run.communicate()
        acknowledged = check_invariants(things, acknowledged)
    things.run()
    assert check_invariants(things, acknowledged).keys() == urls.keys()
