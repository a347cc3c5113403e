"""Runs the images stage in a process of its own, which a test may starve or kill."""

from __future__ import annotations

import json
import resource
import signal
import sys

from imgsim_assets.download import stage
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import NAME


def main() -> None:
    options = json.loads(sys.argv[1])
    stage.COMMIT_EVERY_SECONDS = options["commit_every"]
    if options["file_size"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"],) * 2)
    count = options["shards"]
    reports = stage.download(
        Store.open(options["store"]),
        NAME,
        DownloadSettings(**options["settings"]),
        [Shard(index, count) for index in range(count)],
    )
    print(json.dumps([dict(report.statuses) for report in reports]))


if __name__ == "__main__":
    main()
