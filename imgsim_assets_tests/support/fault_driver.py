"""Materializes a small store in child processes, each with a fault that the test chooses.

The process imports everything once and forks for each attempt. It reads an attempt as a line of
JSON, and prints what became of the child, also as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgsim_assets.errors import describe_error
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.small_store import SmallStore

KILLED = 137
_CALLS = frozenset(
    {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.utime", "os.scandir"}
)
_CHANGES = _CALLS - {"open", "os.scandir"}
_WRITE = os.O_WRONLY | os.O_RDWR


def exit_at(call: int, root: str) -> None:
    """End this process at the N-th call that reads or writes files of the store."""
    count = 0
    fsync, writev = os.fsync, os.writev

    def step() -> None:
        nonlocal count
        count += 1
        if count == call:
            os._exit(KILLED)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CALLS and any(root in str(each) for each in arguments):
            step()

    def half_written(descriptor: int, pieces: Sequence[bytes]) -> int:
        nonlocal count
        if count + 1 == call:
            whole = b"".join(pieces)
            os.write(descriptor, whole[: len(whole) // 2])
        step()
        return writev(descriptor, pieces)

    def synced(descriptor: int) -> None:
        step()
        fsync(descriptor)

    sys.addaudithook(hook)
    os.writev = half_written  # type: ignore[assignment]
    os.fsync = synced  # type: ignore[assignment]


class FaultInFolder:
    """A fault at the first change of every kind of folder of the store that had none yet.

    Moments: `half_written` and `full`, half of a file is written; `unpublished`, a whole file has
    a temporary name; `unsynced`, a file has its name, and the folder is not synced; `deleting`.
    All but `full`, which is an error, end the process. A line with the kind goes to a pipe.
    """

    def __init__(self, moment: str, done: Sequence[str], root: str, messages: int) -> None:
        self._moment, self._done, self._root = moment, {*done}, root
        self._messages = messages
        self._fsync = os.fsync
        sys.addaudithook(self._hook)
        os.fsync = self._synced  # type: ignore[assignment]

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        moments = {"os.rename": "unpublished", "os.link": "unpublished", "os.remove": "deleting"}
        if moments.get(event) == self._moment:
            path = Path(str(arguments[0 if event == "os.remove" else 1]))
            if not path.name.startswith(".tmp-") and self._is_next(path.parent):
                os._exit(KILLED)

    def _synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            if self._moment == "unsynced" and self._is_next(path):
                os._exit(KILLED)
        elif self._moment in ("half_written", "full") and self._is_next(path.parent):
            os.truncate(path, path.stat().st_size // 2)
            if self._moment == "half_written":
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._fsync(descriptor)

    def _is_next(self, folder: Path) -> bool:
        if not folder.is_relative_to(self._root):
            return False
        kind = kind_of_folder(str(folder.relative_to(self._root)))
        if kind in self._done:
            return False
        self._done.add(kind)
        os.write(self._messages, f"{kind}/\n".encode())
        return True


def kind_of_folder(name: str) -> str:
    """The same for all orientations of turned images."""
    return re.sub(r"\.(mirrored|rotated)\w+", ".turned", name)


def make_read_only(root: str) -> None:
    """Let every change of a file of the store fail as on a disk that is mounted read-only."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if not any(root in str(each) for each in arguments):
            return
        flags = arguments[2] if event == "open" else 0
        if event in _CHANGES or (isinstance(flags, int) and flags & _WRITE):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

    sys.addaudithook(hook)


def limit_file_size(size: int) -> None:
    """Let every file end at a size, as on a disk that becomes full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def shift_clock(seconds: float) -> None:
    """Let this process see another time than the others."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def materialize(options: dict[str, Any], messages: int) -> None:
    """Run as a child: exit status 0, or 1 and a message; 2 after an error without a message."""
    root = options["store"]
    if "exit_at" in options:
        exit_at(options["exit_at"], root)
    if options.get("read_only"):
        make_read_only(root)
    if "file_size" in options:
        limit_file_size(options["file_size"])
    if "moment" in options:
        FaultInFolder(options["moment"], options["done"], root, messages)
    if "clock" in options:
        shift_clock(options["clock"])
    status, message = 0, ""
    try:
        small = SmallStore(Path(options["folder"]), options["host"])
        if "collect" in options:
            collect_garbage(Store.open(root), RetentionPolicy(retain_last=1, min_age_hours=1))
        else:
            small.materialize(Store.open(root))
    except BaseException as error:
        described = describe_error(error)
        status, message = (1, described) if described is not None else (2, repr(error))
    os.write(messages, message.encode())
    os._exit(status)


def attempt(options: dict[str, Any]) -> dict[str, object]:
    """Fork `processes` children (1), and wait for them, or kill them after `kill_after` seconds."""
    children = []
    for _ in range(options.get("processes", 1)):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            materialize(options, writing)
        os.close(writing)
        children.append((child, reading))
    if "kill_after" in options:
        time.sleep(options["kill_after"])
        for child, _ in children:
            os.kill(child, signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
    messages = [os.read(reading, 65536).decode() for _, reading in children]
    for _, reading in children:
        os.close(reading)
    return {"statuses": statuses, "messages": messages}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
