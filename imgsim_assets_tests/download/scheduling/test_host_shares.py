from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.scheduling import active_runs, host_shares
from imgsim_assets.download.scheduling.active_runs import FOLDER, ActiveRuns
from imgsim_assets.download.scheduling.host_shares import HostShares, share
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import open_files

HOST = "images.example:443"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return open_files(str(tmp_path / "store"))


def runs_of(files: Files, *hosts: str, max_per_host: int = 8, is_paced: bool = False) -> ActiveRuns:
    return ActiveRuns(files, hosts, max_per_host, is_paced=is_paced)


def names(files: Files) -> list[str]:
    return [entry.name for entry in files.entries(FOLDER)]


@pytest.mark.parametrize("data", [b"", b"\xff", b"5", b"[]", b"{}", b'{"hosts": 5}'])
def test_damaged_files_of_other_runs_are_passed_over(files: Files, data: bytes) -> None:
    for kind in ("hosts", "renewal"):
        files.write(f"{FOLDER}/other.{kind}", data)
    runs = runs_of(files, HOST)

    runs.join()
    runs.poll()

    assert runs.others == {}


# ---- shares -------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 30))
def test_shares_are_the_limit_together_and_older_runs_have_no_smaller_ones(
    limit: int, runs: int
) -> None:
    shares = [share(rank, runs, limit) for rank in range(runs)]

    assert sum(shares) == limit
    assert shares == sorted(shares, reverse=True)


@given(st.integers(1, 20), st.integers(2, 30), st.data())
def test_limit_holds_while_some_runs_have_not_noticed_that_another_left(
    limit: int, runs: int, data: st.DataObject
) -> None:
    left = data.draw(st.integers(0, runs - 1))
    before = [share(rank, runs, limit) for rank in range(runs) if rank != left]
    after = [share(rank, runs - 1, limit) for rank in range(runs - 1)]

    assert all(old <= new for old, new in zip(before, after, strict=True))
    assert sum(after) == limit


# ---- active runs --------------------------------------------------------------------


def test_a_run_waits_until_the_runs_before_it_have_acknowledged_it(files: Files) -> None:
    first, second = runs_of(files, HOST), runs_of(files, HOST)
    first.join()
    second.join()

    assert (first.awaited, second.awaited) == (set(), {first.id})
    assert not second.poll()
    assert first.poll()
    first.renew(acknowledge=False)
    assert not second.poll()
    assert first.is_renewal_due
    first.renew()
    assert second.poll()
    assert second.awaited == set()


def test_runs_that_join_at_once_both_know_of_each_other(files: Files) -> None:
    class Slow(type(files)):  # type: ignore[misc]
        """Another run joins between the files of this one."""

        def entries(self, folder: str) -> list[object]:
            if not second.id:
                second.join()
            found: list[object] = super().entries(folder)
            return found

    second = runs_of(files, HOST)
    first = runs_of(Slow(files.root), HOST)  # type: ignore[attr-defined]
    first.join()

    assert first.awaited == {second.id}
    assert second.awaited == {first.id}


def test_a_run_that_leaves_is_forgotten_and_leaves_nothing(files: Files) -> None:
    first, second = runs_of(files, HOST), runs_of(files, HOST)
    first.join()
    second.join()
    first.leave()

    assert second.poll()
    assert second.others == {}
    assert second.awaited == set()
    second.leave()
    second.poll()
    second.renew()
    assert names(files) == []


def test_a_killed_run_of_this_machine_is_gone_at_once(files: Files) -> None:
    killed = os.fork()
    if not killed:
        with contextlib.suppress(BaseException):
            runs_of(files, HOST).join()
        os._exit(0)
    os.waitpid(killed, 0)
    assert len(names(files)) == 1
    run = runs_of(files, HOST)

    run.join()

    assert run.awaited == set()
    assert all(name.startswith(run.id) for name in names(files))


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_a_run_of_another_machine_that_stops_renewing_is_gone(
    files: Files, age: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = runs_of(files, HOST)
    other.join()
    path = f"{FOLDER}/{other.id}.hosts"
    body = json.loads(files.read(path)) | {"host": "elsewhere"}
    files.write(path, json.dumps(body).encode())
    for name in names(files):
        when = time.time() - age
        os.utime(tmp_path / "store" / FOLDER / name, (when, when))
    run = runs_of(files, HOST)
    run.join()
    if not age:
        assert run.awaited == {other.id}
        monkeypatch.setattr(active_runs, "STALE_SECONDS", -1.0)
        run.poll()

    assert run.others == {}
    assert run.awaited == set()


def test_a_run_that_others_took_for_gone_joins_again(files: Files) -> None:
    run = runs_of(files, HOST)
    run.join()
    run.start()
    run.renew()
    taken = run.id
    for name in names(files):
        files.delete(f"{FOLDER}/{name}")

    assert run.poll()

    assert run.id != taken
    assert names(files) == [f"{run.id}.hosts"]
    assert run.awaited == set()


def test_files_of_runs_killed_while_they_joined_are_removed(files: Files, tmp_path: Path) -> None:
    files.write(f"{FOLDER}/1-a.renewal", b"[]")
    os.utime(tmp_path / "store" / FOLDER / "1-a.renewal", (1e9, 1e9))
    run = runs_of(files, HOST)

    run.join()

    assert all(name.startswith(run.id) for name in names(files))


def test_a_run_that_renews_for_hours_stays(files: Files, tmp_path: Path) -> None:
    first, second = runs_of(files, HOST), runs_of(files, HOST)
    first.join()
    first.renew()
    os.utime(tmp_path / "store" / FOLDER / f"{first.id}.hosts", (1e9, 1e9))

    second.join()

    assert second.awaited == {first.id}
    assert f"{first.id}.hosts" in names(files)


def test_a_run_is_not_fresh_before_its_hosts_were_divided(files: Files) -> None:
    run = runs_of(files, HOST)
    run.join()
    fresh = [run.is_fresh]
    run.start()
    fresh.append(run.is_fresh)

    for name in names(files):
        files.delete(f"{FOLDER}/{name}")
    run.poll()  # joins again
    fresh.append(run.is_fresh)
    run.renew()
    fresh.append(run.is_fresh)

    assert fresh == [False, True, False, True]


# ---- slots --------------------------------------------------------------------------


def shares_of(files: Files | None, *, is_paced: bool = False) -> HostShares:
    return HostShares(8, is_paced=is_paced, files=files)


async def together(
    *shares: HostShares, hosts: tuple[str, ...] = (HOST,)
) -> list[asyncio.Task[None]]:
    """Let runs join one after the other, and watch each other."""
    tasks = []
    for each in shares:
        await each.join(hosts, lambda: None)
        tasks.append(asyncio.create_task(each.watch()))
    return tasks


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_shares, "_POLL_SECONDS", 0.01)


def test_a_run_alone_has_all_slots_of_every_host(files: Files) -> None:
    async def test() -> None:
        alone = shares_of(files)
        assert alone.slots(HOST) == 8
        await together(alone)
        assert (alone.slots(HOST), alone.slots("target.example:443")) == (8, 8)
        assert alone.slots("") > 1000

    run(test)


def test_runs_divide_the_slots_and_get_them_back(files: Files) -> None:
    async def test() -> None:
        first, second, third = shares_of(files), shares_of(files), shares_of(files)
        await together(first, second)
        await until(lambda: (first.slots(HOST), second.slots(HOST)) == (4, 4))
        # The target of a redirect that nobody has listed.
        assert (first.slots("target.example:443"), second.slots("target.example:443")) == (4, 4)
        await together(third)
        await until(lambda: [each.slots(HOST) for each in (first, second, third)] == [3, 3, 2])
        await first.leave()
        await until(lambda: (second.slots(HOST), third.slots(HOST)) == (4, 4))

    run(test)


def test_other_hosts_are_not_divided(files: Files) -> None:
    async def test() -> None:
        first, second = shares_of(files), shares_of(files)
        await together(first, hosts=("a:443", HOST))
        await together(second, hosts=("b:443", HOST))
        await until(lambda: first.slots(HOST) == second.slots(HOST) == 4)
        assert (first.slots("a:443"), second.slots("b:443")) == (8, 8)

    run(test)


def test_a_new_run_waits_for_requests_that_exceed_the_share_of_another(files: Files) -> None:
    async def test() -> None:
        first, second = shares_of(files), shares_of(files)
        await together(first)
        semaphore = first.semaphore(HOST)
        assert all(semaphore.try_acquire() for _ in range(6))
        await together(second)
        await until(lambda: first.slots(HOST) == 4)
        await asyncio.sleep(0.1)
        assert second.slots(HOST) == 0
        assert not semaphore.try_acquire()

        semaphore.release()
        semaphore.release()

        await until(lambda: second.slots(HOST) == 4)

    run(test)


@pytest.mark.parametrize("which", [0, 1])
def test_a_paced_host_belongs_to_the_oldest_run(files: Files, which: int) -> None:
    async def test() -> None:
        first = shares_of(files, is_paced=which == 0)
        second = shares_of(files, is_paced=which == 1)
        await together(first, second)
        await until(lambda: first.slots(HOST) == 8)
        await asyncio.sleep(0.1)
        assert second.slots(HOST) == 0

        await first.leave()

        await until(lambda: second.slots(HOST) == 8)

    run(test)


def test_a_host_with_a_delay_has_one_slot_and_postpones_the_next_run(files: Files) -> None:
    async def test() -> None:
        first, second = shares_of(files), shares_of(files)
        await together(first, second)
        for each in (first, second):
            each.set_delay(HOST, 0.2)
        await until(lambda: (first.slots(HOST), second.slots(HOST)) == (1, 0))
        await first.wait_for_delay(HOST)
        last = time.monotonic()
        await first.leave()
        await until(lambda: second.slots(HOST) == 1)

        await second.wait_for_delay(HOST)

        assert time.monotonic() - last >= 0.2

    run(test)


def test_a_run_that_cannot_renew_sends_nothing(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        alone = shares_of(files)
        await together(alone)
        monkeypatch.setattr(active_runs, "PAUSE_SECONDS", -1.0)
        assert alone.slots(HOST) == 0
        monkeypatch.undo()
        assert alone.slots(HOST) == 8

    run(test)
