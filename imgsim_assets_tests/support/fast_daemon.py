"""`dagster-daemon` that polls backfills and automation more often."""

from __future__ import annotations

import sys

from dagster._daemon import controller
from dagster._daemon.cli import main

from imgsim_assets_tests.support.fast_dagster import disable_fsync

INTERVAL_SECONDS = 3

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = INTERVAL_SECONDS
    disable_fsync()
    sys.argv = ["dagster-daemon", *sys.argv[1:]]
    main()
