from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imgsim_assets.errors import BusyError
from imgsim_assets.storage import lease
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.lease import Lease
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.downloads import wait_until

PATH = "things/_leases/000"


def test_a_lease_has_one_holder_at_a_time(store: Store) -> None:
    at_once = max_at_once = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal at_once, max_at_once
        with Lease(store.files, PATH, work="it"):
            with lock:
                at_once += 1
                max_at_once = max(max_at_once, at_once)
            time.sleep(0.02)
            with lock:
                at_once -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert max_at_once == 1
    assert store.files.entries("things/_leases") == []


def test_waiting_for_a_lease_logs_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.01)
    messages: list[str] = []

    def wait() -> None:
        with Lease(store.files, PATH, work="things shard 000", log=messages.append):
            pass

    with Lease(store.files, PATH, work="it"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: bool(messages))
        time.sleep(0.1)  # in which it looks again
    waiting.join(30)
    assert messages == ["another run is working on things shard 000; waiting for it"]


@pytest.mark.parametrize("wait", [True, False])
def test_the_lease_of_a_killed_process_is_acquired_immediately(tmp_path: Path, wait: bool) -> None:
    held = (
        "import os, sys; from pathlib import Path\n"
        "from imgsim_assets.storage.local_files import LocalFiles\n"
        "from imgsim_assets.storage.lease import Lease\n"
        f"Lease(LocalFiles(Path(sys.argv[1])), {PATH!r}, work='it').__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", held, str(tmp_path)], check=False)
    files = LocalFiles(tmp_path)
    assert files.stat(PATH) is not None

    messages: list[str] = []
    started = time.monotonic()
    with Lease(files, PATH, work="it", log=messages.append, wait=wait):
        assert time.monotonic() - started < lease.STALE_SECONDS / 2
    assert messages == []


def test_a_lease_that_is_held_is_not_waited_for(store: Store) -> None:
    with (
        Lease(store.files, PATH, work="it"),
        pytest.raises(BusyError, match="another run is working on things shard 000"),
        Lease(store.files, PATH, work="things shard 000", wait=False),
    ):
        pass


@pytest.mark.parametrize("left", [b"", b'{"host": "another", "process": 1}'])
def test_a_stale_lease_is_acquired(tmp_path: Path, left: bytes) -> None:
    files = LocalFiles(tmp_path)
    files.write(PATH, left)
    long_ago = time.time() - lease.STALE_SECONDS - 1
    os.utime(tmp_path / PATH, (long_ago, long_ago))

    with Lease(files, PATH, work="it"):
        assert files.read(PATH) != left


@pytest.mark.parametrize("left", ["{", "[]", json.dumps({"host": socket.gethostname()})])
def test_a_damaged_lease_is_acquired_when_nobody_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.1)
    files = LocalFiles(tmp_path)
    files.write(PATH, left.encode())

    with Lease(files, PATH, work="it"):
        assert files.read(PATH) != left.encode()


def test_a_lease_dated_in_the_future_is_acquired_when_nobody_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.6)
    files = LocalFiles(tmp_path)
    files.write(PATH, b'{"host": "another", "process": 1}')
    in_a_month = time.time() + 30 * 24 * 3600
    os.utime(tmp_path / PATH, (in_a_month, in_a_month))

    with Lease(files, PATH, work="it"):
        assert files.read(PATH) != b'{"host": "another", "process": 1}'


def test_a_lease_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    files = LocalFiles(tmp_path)
    with Lease(files, PATH, work="it"):
        os.utime(tmp_path / PATH, (0, 0))
        deadline = time.monotonic() + 60
        while (tmp_path / PATH).stat().st_mtime < 1e9:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_releasing_a_lost_lease_keeps_the_new_holders(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    other = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
    with Lease(files, PATH, work="it"):
        files.write(PATH, other)

    assert files.read(PATH) == other


def test_a_lease_on_object_storage(s3_root: str) -> None:
    files: Files = open_files(s3_root)
    with Lease(files, PATH, work="it"):
        assert files.stat(PATH) is not None
    assert files.stat(PATH) is None
