"""Runs the images stage repeatedly, and kills the process one I/O call later each time.

The process imports everything once and forks for each attempt. The child counts the I/O calls on
the store's files that Python's audit hook reports, and writes and syncs, which it does not report.
It exits at the N-th call without any clean-up, at a write after half of the bytes. The parent
prints the exit status of each child; the last one is 0, when N exceeds the number of calls.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from imgsim_assets.download.scheduling.active_runs import FOLDER
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import NAME, download

KILLED = 137
_EVENTS = frozenset(
    {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.utime", "os.scandir"}
)


def _die_at(call: int, root: str) -> None:
    count = 0
    write, writev, fsync = os.write, os.writev, os.fsync

    def step(before_exit: Callable[[], object] = lambda: None) -> None:
        nonlocal count
        count += 1
        if count == call:
            before_exit()
            os._exit(KILLED)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        paths = [str(one) for one in arguments if root in str(one)]
        if event in _EVENTS and paths and not any(FOLDER in path for path in paths):
            step()

    def half_written(descriptor: int, pieces: Sequence[bytes]) -> int:
        whole = b"".join(pieces)
        step(lambda: write(descriptor, whole[: len(whole) // 2]))
        return writev(descriptor, pieces)

    def synced(descriptor: int) -> None:
        if FOLDER not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            step()
        fsync(descriptor)

    sys.addaudithook(hook)
    os.writev = half_written  # type: ignore[assignment]
    os.fsync = synced  # type: ignore[assignment]


def main() -> None:
    """Take the store, the settings and the first N as JSON."""
    options = json.loads(sys.argv[1])
    call = options["first"]
    while True:
        child = os.fork()
        if child == 0:
            _die_at(call, options["store"])
            settings = DownloadSettings(**options["settings"])
            download(Store.open(Path(options["store"])), NAME, settings, [Shard(0, 1)])
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)
        sys.stdin.readline()  # the test checks the store meanwhile
        if status != KILLED:
            return
        call += 1


if __name__ == "__main__":
    main()
