"""Processes that write to a store; tests race them, kill them and make them fail.

python -m imgsim_assets_tests.support.writer_process commit ROOT TABLE WRITER COUNT
python -m imgsim_assets_tests.support.writer_process crash ROOT
python -m imgsim_assets_tests.support.writer_process no-hard-links ROOT
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit, PendingCommit, append_to_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

CRASHED = 137


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a process of this module; `commit` waits for a line before its first commit."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def release(process: subprocess.Popen[str]) -> None:
    """Let a `commit` process start once it is ready."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the process was started with pipes")
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def commit_rows(root: str, table_name: str, writer: str, count: int) -> None:
    """Append one row per commit, `count` times (0: forever), and print each committed id."""
    table = Store.open(root).table(table_name, key="id")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in itertools.count() if count == 0 else range(count):
        row = f"{writer}-{number}"
        file = table.write_rows(pl.DataFrame({"id": [row]}))

        def appended(base: Commit | None, file: Any = file) -> PendingCommit:
            return PendingCommit(append_to_shard(base, Shard(0, 1), [file]))

        table.commit(appended)
        print(row, flush=True)


def crash_everywhere(root: str) -> None:
    """Commit to a new table repeatedly, and exit one file operation later each time.

    Tables are crash/again_N, which have a version before, and crash/first_N, which have none.
    """
    for kind in ("again", "first"):
        for operation in itertools.count(1):
            name = f"crash/{kind}_{operation:03d}"
            if kind == "again":
                _commit_one_more(root, name, b"before")
            child = os.fork()
            if child == 0:
                _die_at(root, operation)
                _commit_one_more(root, name, b"after")
                os._exit(0)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            print(name, "crashed" if code == CRASHED else "committed", flush=True)
            if code == 0:
                break
            if code != CRASHED:
                raise SystemExit(f"{name}: exit code {code}")


def _commit_one_more(root: str, name: str, data: bytes) -> None:
    table = Store.open(root).table(name)
    file = table.write_bytes(data, role="bytes", suffix=".bin")
    table.commit(lambda base: PendingCommit([*(base.files if base else ()), file]))


def _die_at(root: str, operation: int) -> None:
    """Exit like a killed process just before the numbered file operation under root."""
    reached = itertools.count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.link", "os.rename", "os.remove", "os.mkdir"):
            return
        paths = [str(argument) for argument in arguments if isinstance(argument, str | Path)]
        if any(path.startswith(root) for path in paths) and next(reached) == operation:
            os._exit(CRASHED)

    sys.addaudithook(watch)


def commit_without_hard_links(root: str) -> None:
    """Commit while the system refuses hard links, as some network and FAT disks do."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.link":
            raise PermissionError(1, "Operation not permitted")

    sys.addaudithook(refuse)
    try:
        _commit_one_more(root, "some/table", b"data")
    except StoreError as error:
        print(error, flush=True)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "commit":
        commit_rows(rest[0], rest[1], rest[2], int(rest[3]))
    elif mode == "crash":
        crash_everywhere(rest[0])
    else:
        commit_without_hard_links(rest[0])
