"""Faults of processes, disks and clocks: after each, the store is intact and a rerun completes.

Every drill changes the lists, lets a run meet a fault, verifies the store, and compares a rerun
with a store that was never damaged.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.fault_driver import KILLED, kind_of_folder
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.shell import unavailable
from imgsim_assets_tests.support.small_store import SmallStore, contents, pages
from imgsim_assets_tests.support.web import Web

pytestmark = pytest.mark.slow

_PROJECT = Path(__file__).parents[1]
_MONTH = 30 * 24 * 3600.0


@dataclass
class Drill:
    """A small store, and a process that materializes it with faults."""

    small: SmallStore
    web: Web
    process: subprocess.Popen[str]
    version: int = 0

    @property
    def store(self) -> Store:
        return Store.open(self.small.folder / "store")

    def change(self) -> None:
        """Change the lists."""
        self.version += 1
        self.small.declare_version(self.version)

    def run(self, **faults: Any) -> tuple[list[int], list[str]]:
        """The exit statuses and messages of a run with faults; see `fault_driver`."""
        options = {
            "store": self.store.url,
            "folder": str(self.small.folder),
            "host": self.small.host,
            **faults,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        return result["statuses"], result["messages"]

    def faults(self, moment: str, **options: Any) -> set[str]:
        """The kinds of folders in which runs met a fault, one after the other; see FaultInFolder.

        Other writes may fail without an error, such as that of the copy of a commit.
        """
        folders: set[str] = set()
        while True:
            (status,), (message,) = self.run(moment=moment, done=sorted(folders), **options)
            lines = message.splitlines()
            now = {line.removesuffix("/") for line in lines if line.endswith("/")}
            assert status in ((0, 1) if moment == "full" else (KILLED if now else 0,)), message
            assert len(lines) - len(now) == (status == 1), message
            assert verify(Store.open(options.get("store", self.store.url))).problems == []
            if not now:
                return folders
            folders |= now

    def check(self, store: Store | None = None) -> None:
        """The store is intact, and a rerun makes it equal to a store that was never damaged.

        By default the store that the drills share.
        """
        store = store or self.store
        assert verify(store, sample_size=2).problems == []
        self.small.materialize(store)
        assert verify(store, sample_size=2).problems == []
        found, fresh = contents(store), self.small.fresh_contents("fresh")
        assert found.keys() == fresh.keys()
        for name, rows in found.items():
            assert rows.equals(fresh[name]), name


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """A store that has one version; the drills share it, and so its history."""
    command = [sys.executable, "-m", "imgsim_assets_tests.support.fault_driver"]
    with Web() as web:
        web.pages.update(pages())
        small = SmallStore(tmp_path_factory.mktemp("drills"), web.address)
        with subprocess.Popen(
            command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            drill = Drill(small, web, process)
            drill.change()
            assert drill.run() == ([0], [""])
            drill.check()
            yield drill
            assert process.stdin is not None
            process.stdin.close()


def test_thirty_kills_at_random_moments(drill: Drill) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    started = time.monotonic()
    drill.change()
    assert drill.run() == ([0], [""])
    duration = time.monotonic() - started
    killed = 0

    for _ in range(30):
        drill.change()
        (status,), _ = drill.run(kill_after=rng.uniform(0, duration))
        killed += status == -9
        drill.check()

    assert killed >= 15


def test_exits_throughout_the_io_calls(drill: Drill) -> None:
    calls = []
    for call in range(1, 2000, 37):
        drill.change()
        (status,), _ = drill.run(exit_at=call)
        drill.check()
        if status == 0:
            break
        assert status == KILLED
        calls.append(call)

    assert len(calls) > 20


@pytest.mark.parametrize(
    ("moment", "is_update"),
    [
        ("half_written", False),
        ("unpublished", True),
        ("unsynced", False),
        ("full", False),
        ("full", True),
    ],
)
def test_fault_at_the_first_write_in_every_folder(
    drill: Drill, tmp_path: Path, moment: str, is_update: bool
) -> None:
    root = tmp_path / "store"
    if is_update:
        shutil.copytree(drill.store.url, root)
        drill.change()

    folders = drill.faults(moment, store=str(root))

    drill.check(Store.open(root))
    written = {str(path.parent.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert len(folders) > 40
    assert is_update or {*map(kind_of_folder, written)} <= folders


def test_kills_at_the_first_deletion_in_every_folder(drill: Drill) -> None:
    for _ in range(3):
        drill.change()
        drill.check()
    make_older(Path(drill.store.url), 48)

    folders = drill.faults("deleting", collect=True)

    drill.check()
    assert len(folders) > 40


@pytest.mark.parametrize("size", [0, 100, 500, 1000, 1500, 2500, 4000])
def test_full_disk(drill: Drill, size: int) -> None:
    drill.change()

    (status,), (message,) = drill.run(file_size=size)

    assert status == 1, message
    assert "\n" not in message
    drill.check()


def test_read_only_disk(drill: Drill) -> None:
    drill.change()

    (status,), (message,) = drill.run(read_only=True)

    assert status == 1, message
    assert message.startswith("Read-only file system: ")
    assert "mount the disk writable" in message
    drill.check()


def test_two_processes(drill: Drill) -> None:
    for _ in range(5):
        drill.change()

        statuses, messages = drill.run(processes=2)

        assert statuses == [0, 0], messages
        drill.check()


def test_clock_that_is_set_back_a_month(drill: Drill) -> None:
    failing = dict(drill.web.pages)
    drill.change()
    for path in list(failing)[::2]:
        drill.web.pages[path] = unavailable
    assert drill.run(clock=_MONTH) == ([0], [""])
    make_older(Path(drill.store.url), -_MONTH / 3600)
    drill.web.pages.update(failing)

    drill.check()
    drill.change()
    drill.check()
    collect_garbage(drill.store, RetentionPolicy(retain_last=1, min_age_hours=1))
    drill.check()


def test_random_bytes(drill: Drill) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    root = Path(drill.store.url)
    for _ in range(10):
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        path = rng.choice([path for path in files if path.stat().st_size])
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)

        drill.change()
        repair(drill.store)
        drill.small.materialize(drill.store)
        drill.check()
