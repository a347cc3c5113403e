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
from imgsim_assets_tests.support.downloads import Catalog, fast_settings
from imgsim_assets_tests.support.faulty_server import PageServer, response
from imgsim_assets_tests.support.images import jpeg

_PROJECT = Path(__file__).parents[2]
ITEMS = 4


Good = dict[tuple[str, str], str]


def check_invariants(catalog: Catalog, committed: Good) -> Good:
    """Check that good rows have their image, rows are unique, and no committed row is lost.

    Returns the sha256 of the good rows that are committed now, by id and url.
    """
    if catalog.table.latest() is None:
        assert not committed
        return {}
    frame = catalog.ledger()
    assert not frame.select("id", "image").is_duplicated().any()
    assert not frame.select("id", "url").is_duplicated().any()
    good = {
        (row["id"], row["url"]): row["sha256"]
        for row in frame.iter_rows(named=True)
        if row["sha256"]
    }
    for sha256 in good.values():
        assert hashlib.sha256(catalog.store.blobs.get(sha256)).hexdigest() == sha256
    assert committed.items() <= good.items()
    versions = catalog.table.versions()
    assert versions == list(range(1, len(versions) + 1))
    return good


def declare_items(catalog: Catalog, shop: PageServer, count: int = ITEMS) -> dict[str, str]:
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(count)})
    urls = {f"item {number:03}": shop.url(f"/{number}") for number in range(count)}
    catalog.declare(urls)
    return urls


def crash_at_every_call(catalog: Catalog, first: int) -> tuple[int, Good]:
    """Kill the stage at every I/O call from the first on; returns the calls and the rows."""
    options = {
        "store": catalog.store.url,
        "settings": fast_settings().model_dump(mode="json"),
        "first": first,
    }
    committed: Good = {}
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
            committed = check_invariants(catalog, committed)
            if int(line) == 0:
                break
            assert int(line) == KILLED
            attempts += 1
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdin.close()
    return attempts, committed


def test_crash_at_any_io_call_loses_no_committed_row(catalog: Catalog, shop: PageServer) -> None:
    urls = declare_items(catalog, shop)
    attempts, committed = crash_at_every_call(catalog, first=1)
    # At least: reading the catalog, writing, syncing and renaming the pack, a file, a commit.
    assert attempts > 20
    assert committed.keys() == urls.items()
    assert [report.requested for report in catalog.run()] == [0]


@pytest.mark.slow
def test_runs_killed_at_random_times_lose_no_committed_row(
    catalog: Catalog, shop: PageServer
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    urls = declare_items(catalog, shop, 400)
    committed: Good = {}
    for _ in range(20):
        run = catalog.start(fast_settings(max_per_host=4), commit_every=0.05)
        time.sleep(rng.uniform(0.3, 2.5))
        run.kill()
        run.communicate()
        committed = check_invariants(catalog, committed)
    catalog.run()
    assert check_invariants(catalog, committed).keys() == urls.items()
