"""Runs the images stage in a process of its own, which a test may starve or kill."""

from __future__ import annotations

import json
import resource
import signal
import sys

from imgsim_assets.download import shard_run
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import NAME, download


def main() -> None:
    options = json.loads(sys.argv[1])
    shard_run.COMMIT_EVERY_SECONDS = options["commit_every"]
    if options["file_size"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"],) * 2)
    count = options["shards"]
    reports = download(
        Store.open(options["store"]),
        NAME,
        DownloadSettings(**options["settings"]),
        [Shard(index, count) for index in options["only"] or range(count)],
    )
    print(json.dumps([dict(report.statuses) for report in reports]))


if __name__ == "__main__":
    main()
