from __future__ import annotations

import asyncio
import io
import itertools
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgsim_assets.download import image_writer, shard_downloader, shard_run
from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger import writer
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.storage import lease
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.downloads import NAME, TIMES, Catalog, quick, until
from imgsim_assets_tests.support.faulty_server import Connection, Misbehaving, Shop, response
from imgsim_assets_tests.support.images import encoded, jpeg, make_image

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- several runs at once -----------------------------------------------------------


@pytest.fixture
def no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take every other run for dead."""
    monkeypatch.setattr(lease, "STALE_SECONDS", -60.0)


def test_concurrent_runs_wait_for_the_run_with_the_lease(things: Catalog) -> None:
    told: list[str] = []
    gets: Counter[str] = Counter()

    def page(connection: Connection) -> None:
        gets[connection.path] += 1
        connection.wait(lambda: len(told) == 2)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with Misbehaving(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(20)}
        things.declare(urls)
        patient = quick(timeout_s=30, read_timeout_s=30)

        def run() -> list[DownloadReport]:
            return again(things).run(patient, retry="all", log=told.append)

        reports = [join(one)[0] for one in [in_background(run) for _ in range(3)]]
    assert gets == {f"/{number}": 1 for number in range(20)}
    assert sorted(report.requested for report in reports) == [0, 0, 20]
    assert [report.statuses for report in reports] == [{"ok": 20}] * 3
    assert all("another run is working on" in line for line in told[:2])


def test_failure_of_a_concurrent_run_is_not_retried_at_once(
    things: Catalog,
) -> None:
    told: list[str] = []

    def page(connection: Connection) -> None:
        connection.wait(lambda: len(told) == 1)
        connection.send(response(status=b"404 Not Found"))

    with Misbehaving(page) as server:
        things.declare({"a": server.url("/a")})
        patient = quick(timeout_s=30, read_timeout_s=30)

        def run() -> list[DownloadReport]:
            return again(things).run(patient, retry="all", log=told.append)

        for one in [in_background(run) for _ in range(2)]:
            join(one)
        assert server.requests == ["/a"]


@pytest.mark.usefixtures("no_leases")
def test_concurrent_runs_without_lease_end_with_one_correct_ledger(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.02)

    def page(connection: Connection) -> None:
        connection.wait(lambda: server.requests.count("/0") == 2)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with Misbehaving(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(20)}
        things.declare(urls)
        settings = quick(max_per_host=2, timeout_s=30, read_timeout_s=30)
        both = [in_background(again(things).run, settings) for _ in range(2)]
        reports = [join(run)[0] for run in both]
        assert len(server.requests) == 40
        assert [report.statuses for report in reports] == [{"ok": 20}] * 2
        assert things.statuses() == dict.fromkeys(urls, "ok")
        assert [(file.rows, file.is_snapshot) for file in things.commit().files] == [(20, True)]
        assert [report.changed for report in things.run()] == [False]
    assert len(server.requests) == 40


def test_concurrent_processes_end_with_one_correct_ledger(things: Catalog, shop: Shop) -> None:
    for number in range(30):
        shop.pages[f"/{number}"] = response(jpeg(number)) if number % 5 else BUSY
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(30)}
    things.declare(urls, shards=3)
    both = [things.start(commit_every=0.05) for _ in range(2)]
    for process in both:
        assert finished(process) == 0
    assert things.statuses() == {
        f"item {number}": "ok" if number % 5 else "http_503" for number in range(30)
    }
    assert sorted(file.shard or 0 for file in things.commit().files) == [0, 1, 2]
    seen = len(shop.requests)
    assert seen == 30
    assert not any(report.changed for report in things.run())
    assert len(shop.requests) == seen


@pytest.mark.usefixtures("no_leases")
def test_run_on_an_older_catalog_does_not_undo_a_newer_run(things: Catalog) -> None:
    newer_is_done = threading.Event()

    def page(connection: Connection) -> None:
        if connection.path == "/old":
            connection.wait(newer_is_done.is_set)
        connection.send(response(jpeg(1) if connection.path == "/old" else jpeg(2)))

    with Misbehaving(page) as server:
        things.declare({"kept": server.url("/old"), "removed": server.url("/old")})
        older = in_background(again(things).run, quick(timeout_s=30, read_timeout_s=30))
        until(lambda: len(server.requests) == 2)
        things.declare({"kept": server.url("/new")})
        things.run()
        newer_is_done.set()
        join(older)
    assert {item: row["url"] for item, row in things.rows().items()} == {"kept": server.url("/new")}


@pytest.mark.usefixtures("no_leases")
def test_failure_does_not_replace_an_image_of_a_concurrent_run(
    things: Catalog,
) -> None:
    other_is_done = threading.Event()

    def page(connection: Connection) -> None:
        is_first = len(server.requests) == 1
        if is_first:
            connection.wait(other_is_done.is_set)
        connection.send(BUSY if is_first else response(IMAGE))

    with Misbehaving(page) as server:
        things.declare({"a": server.url("/a.jpg")})
        failing = in_background(again(things).run, quick(timeout_s=30, read_timeout_s=30))
        until(lambda: len(server.requests) == 1)
        things.run()
        assert things.statuses() == {"a": "ok"}
        other_is_done.set()
        join(failing)
    assert things.statuses() == {"a": "ok"}


# ---- runs that end early ------------------------------------------------------------


def test_killed_run_keeps_its_commits(things: Catalog) -> None:
    numbers = itertools.count()
    answered: dict[str, datetime] = {}
    killed = threading.Event()

    def page(connection: Connection) -> None:
        number = next(numbers)
        if number < 45:
            connection.wait(lambda: len(things.table.versions()) >= number // 15)
        else:
            connection.wait(killed.is_set)
        connection.send(response(jpeg(int(connection.path[1:]))))
        answered[connection.path] = datetime.now(UTC)

    with Misbehaving(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(60)}
        things.declare(urls)
        patient = quick(max_per_host=4, timeout_s=60, read_timeout_s=60)
        run = things.start(patient, commit_every=0.3)
        until(lambda: len(things.table.versions()) >= 3)
        run.send_signal(signal.SIGKILL)
        assert finished(run) == -signal.SIGKILL
        killed.set()

        kept = things.rows()
        asked = len(server.requests)
        *_, before_last, _ = things.table.versions()
        safe = datetime.fromisoformat(things.table.at(before_last).committed_at)
        fetched_before = {path for path, moment in answered.items() if moment < safe}
        assert fetched_before <= {f"/{int(item[-2:])}" for item in kept}
        assert 15 <= len(kept) < 60
        for row in kept.values():
            assert row["status"] == "ok"
            assert things.store.blobs.get(row["sha256"])

        things.run()
        assert things.statuses() == dict.fromkeys(urls, "ok")
        assert len(server.requests) == asked + 60 - len(kept)
        assert not {urls[item] for item in kept} & {
            server.url(path) for path in server.requests[asked:]
        }
    assert len(things.commit().files) == 1


def test_interrupted_run_commits_everything_it_fetched(things: Catalog) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if len(server.requests) > 10:
            connection.wait(interrupted.is_set)
        connection.send(response(IMAGE))

    with Misbehaving(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(20)}
        things.declare(urls)
        run = things.start(quick(max_per_host=1, timeout_s=60, read_timeout_s=60))
        until(lambda: len(server.requests) == 11)
        run.send_signal(signal.SIGINT)
        assert finished(run) != 0
        interrupted.set()
        assert things.statuses() == dict.fromkeys(sorted(urls)[:10], "ok")
        things.run()
        assert things.statuses() == dict.fromkeys(urls, "ok")
        assert len(server.requests) == 21


def test_run_interrupted_while_a_commit_is_due_ends(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has arrived is kept at the end, which wakes the commits as they are cancelled."""
    monkeypatch.setattr(image_writer, "_MAX_DELAY_SECONDS", 60.0)
    monkeypatch.setattr(writer, "_MAX_PENDING_ROWS", 4)
    monkeypatch.setattr(writer, "_MAX_LOOSE_ROWS", 4)
    run = shard_downloader.ShardDownloader.run

    async def interrupted(one: shard_downloader.ShardDownloader) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        await run(one)

    monkeypatch.setattr(shard_downloader.ShardDownloader, "run", interrupted)
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(4)})
    shop.pages["/silent"] = lambda connection: connection.send_forever(b"")
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(4)}
    things.declare(urls | {"silent": shop.url("/silent")})
    with pytest.raises(asyncio.CancelledError):
        join(in_background(things.run, quick(timeout_s=60, read_timeout_s=60)))
    assert things.statuses() == dict.fromkeys(urls, "ok")


def test_interrupted_event_loop_fails_no_item(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a handler of signals that raises wherever the process is."""
    run = shard_downloader.ShardDownloader.run

    loops: list[asyncio.AbstractEventLoop] = []

    async def observed(one: shard_downloader.ShardDownloader) -> None:
        loops.append(asyncio.get_running_loop())
        await run(one)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def page(connection: Connection) -> None:
        time.sleep(0.01)
        connection.send(response(IMAGE))
        if connection.path == "/100":
            loops[0].call_soon_threadsafe(interrupt)

    monkeypatch.setattr(shard_downloader.ShardDownloader, "run", observed)
    with Misbehaving(page) as server:
        things.declare({f"item {number:04}": server.url(f"/{number}") for number in range(2000)})
        with pytest.raises(KeyboardInterrupt):
            things.run(quick(timeout_s=60, read_timeout_s=60))
    assert set(things.statuses().values()) == {"ok"}


def test_full_disk_fails_the_run_and_keeps_fetched_images(things: Catalog, shop: Shop) -> None:
    large = noise()
    assert len(large) > 60_000
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(5)})
    shop.pages["/large"] = response(large)
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(5)}
    things.declare(urls | {"large": shop.url("/large")})
    run = things.start(quick(max_per_host=1), file_size=60_000)
    assert finished(run, expect="File too large") == 1
    assert things.statuses() == dict.fromkeys(urls, "ok")
    assert unfinished_files(things) == []
    things.run()
    assert things.statuses() == dict.fromkeys([*urls, "large"], "ok")
    assert shop.gets == {f"/{number}": 1 for number in range(5)} | {"/large": 2}


def test_failed_upload_fails_only_its_shard(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Catalog(Store.open("memory://an-upload-that-fails/store"), things.folder)
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(20)})
    away.declare({f"item {number}": shop.url(f"/{number}") for number in range(20)}, shards=2)
    upload, fails = away.store.files.upload, iter([True])

    def is_away_for_a_moment(path: str, local: Path) -> None:
        if next(fails, False):
            raise OSError("the object store is away")
        upload(path, local)

    monkeypatch.setattr(away.store.files, "upload", is_away_for_a_moment)
    with ImagesStage(away.store, NAME, quick()) as images:
        with pytest.raises(OSError, match="is away"):
            images.run(Shard(0, 2))
        second = images.run(Shard(1, 2))
    assert second.statuses == {"ok": second.items}
    away.run()
    assert away.statuses() == {f"item {number}": "ok" for number in range(20)}


def test_hanging_object_store_delays_neither_commits_nor_other_items(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(RemoteObjects, "read", lambda *_: answers.wait(15))
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.1)
    committed = threading.Event()

    def page(connection: Connection) -> None:
        if connection.path == "/19":  # the last one
            connection.wait(committed.is_set)
        connection.send(response(jpeg(int(connection.path[1:]))))

    shop.pages.update({f"/{number}": page for number in range(20)})
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(20)}
    silent = {f"silent {number}": f"s3://bucket/{number}.jpg" for number in range(30)}
    things.declare(urls | silent)
    chosen = quick(
        allowed_url_prefixes=("s3://bucket/",), max_per_host=30, circuit_breaker_threshold=40
    )
    try:
        with ImagesStage(things.store, NAME, chosen, on_commit=lambda _: committed.set()) as images:
            report = images.run(Shard(0, 1))
    finally:
        answers.set()
    assert report.statuses == {"ok": 20, "timeout": 30}


def test_disk_too_full_for_the_ledger_keeps_the_last_version(things: Catalog, shop: Shop) -> None:
    tiny = encoded(make_image(1, (4, 4)), "PNG")
    shop.pages.update({"/a": response(tiny), "/b": response(tiny)})
    things.declare({"a": shop.url("/a")})
    things.run()
    before = things.frame()
    things.declare({"a": shop.url("/a"), "b": shop.url("/b")})
    assert finished(things.start(file_size=1000), expect="File too large") == 1
    assert things.table.versions() == [1]
    assert things.frame().equals(before)
    assert unfinished_files(things) == []
    things.run()
    assert things.statuses() == {"a": "ok", "b": "ok"}
    assert shop.gets == {"/a": 1, "/b": 2}


def test_changed_settings_retry_refusals_of_an_interrupted_run(
    things: Catalog,
) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if connection.path == "/last" and len(server.requests) == 4:
            connection.wait(interrupted.is_set)
        connection.send(response(IMAGE))

    with Misbehaving(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(3)}
        urls["last"] = server.url("/last")
        things.declare(urls)
        mistaken = quick(max_megabytes=0.001, max_per_host=1, timeout_s=60, read_timeout_s=60)
        run = things.start(mistaken)
        until(lambda: len(server.requests) == 4)
        run.send_signal(signal.SIGINT)
        assert finished(run) != 0
        interrupted.set()
        assert set(things.statuses().values()) == {"too_large"}
        things.run()
        assert things.statuses() == dict.fromkeys(urls, "ok")


@pytest.mark.parametrize("most_appended", [0, 32], ids=["merged", "appended"])
def test_changed_settings_retry_refusals_that_an_interrupted_run_did_not_reach(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch, most_appended: int
) -> None:
    monkeypatch.setattr(writer, "_MAX_DELTA_FILES", most_appended)
    real = HttpClient.fetch

    async def fetch(fetcher: HttpClient, url: str, held: Validators | None) -> Fetched:
        if url.endswith("/2"):
            raise KeyboardInterrupt
        return await real(fetcher, url, held)

    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(4)})
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(4)}
    things.declare(urls)
    things.run(quick(max_megabytes=0.001))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(HttpClient, "fetch", fetch)
        with pytest.raises(KeyboardInterrupt):
            things.run(quick(concurrency=1))
    assert list(things.statuses().values()) == ["ok", "ok", "too_large", "too_large"]
    things.run()
    assert things.statuses() == dict.fromkeys(urls, "ok")
    assert len(shop.requests) == 8


# ---- damage -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_items_of_a_corrupt_ledger_file_are_fetched_again(
    things: Catalog, shop: Shop, damage: str
) -> None:
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(12)}
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(11)})
    things.declare(urls, shards=3)
    before = [report.data_version for report in things.run()]
    ledger = things.frame()
    damaged = things.commit().files_of_shard(Shard(1, 3))[0]
    path = harm(things, damaged, damage)
    said: list[str] = []
    reports = things.run(log=said.append)
    assert [report.requested for report in reports] == [0, damaged.rows, 0]
    assert [report.changed for report in reports] == [False, True, False]
    assert [report.data_version for report in reports] == before
    assert things.frame().drop(TIMES).equals(ledger.drop(TIMES))
    assert things.table.verify_checksums(things.commit())
    assert len(shop.requests) == 12 + (damaged.rows or 0)
    assert any(str(path) in line for line in said)
    assert not any(report.changed for report in things.run())


def test_corrupt_delta_file_costs_only_its_items(
    things: Catalog,
) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if len(server.requests) == 6:
            connection.wait(interrupted.is_set)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with Misbehaving(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(8)}
        things.declare(dict(list(urls.items())[:3]))
        things.run()
        things.declare(urls)
        run = things.start(quick(max_per_host=1, timeout_s=60, read_timeout_s=60))
        until(lambda: len(server.requests) == 6)
        run.send_signal(signal.SIGINT)
        assert finished(run) != 0
        interrupted.set()
        complete, appended = things.commit().files
        assert (complete.rows, appended.rows) == (3, 2)
        harm(things, appended, "flipped")
        things.run()
        assert things.statuses() == dict.fromkeys(urls, "ok")
        assert Counter(server.requests) == {
            f"/{number}": 1 if number in (0, 1, 2, 6, 7) else 2 for number in range(8)
        }
    assert things.table.verify_checksums(things.commit())


def test_corrupt_ledger_of_an_empty_shard_is_replaced(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")}, shards=2)
    things.run()
    [empty] = [file for file in things.commit().files if not file.rows]
    harm(things, empty, "flipped")
    things.run()
    assert things.statuses() == {"a": "ok"}
    assert things.table.verify_checksums(things.commit())
    assert shop.gets == {"/a.jpg": 1}


def test_corrupt_files_of_the_former_number_of_shards_are_replaced(
    things: Catalog, shop: Shop
) -> None:
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(12)}
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(12)})
    things.declare(urls, shards=2)
    things.run()
    for file in things.commit().files:
        harm(things, file, "flipped")
    things.declare(urls, shards=3)
    things.run(only=[0])
    things.run(only=[1, 2])
    assert things.statuses() == dict.fromkeys(urls, "ok")
    assert things.table.verify_checksums(things.commit())
    assert len(shop.requests) == 24


# ---- any history --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_with_the_ledger_of_a_full_run(
    things: Catalog, shop: Shop, seed: int
) -> None:
    """Whatever is added, changed, removed, busy, lost or damaged in between."""
    chance = random.Random(seed)
    pages = [f"/{number}" for number in range(12)]
    busy: set[str] = set()

    def page(connection: Connection) -> None:
        number = int(connection.path[1:])
        good = response(jpeg(number % 6)) if number < 10 else response(b"<html>")
        connection.send(BUSY if connection.path in busy else good)

    shop.pages.update(dict.fromkeys(pages, page))
    urls: dict[str, str] = {}
    for _ in range(8):
        for changed in chance.sample(range(15), 4):
            urls[f"item {changed}"] = shop.url(chance.choice([*pages, "/nowhere"]))
        for removed in chance.sample(sorted(urls), 2):
            del urls[removed]
        busy = set(chance.sample(pages, 3))
        things.declare(urls, shards=chance.choice([1, 2, 3]))
        things.run(quick(concurrency=chance.choice([1, 8])))
        if chance.random() < 0.5:
            things.move_retries(-timedelta(days=1))
        if chance.random() < 0.5:
            lose_one(things, chance)
        if chance.random() < 0.3:
            harm(things, chance.choice(things.commit().files), "flipped")
            things.run()
    busy.clear()
    things.move_retries(-timedelta(days=1))
    things.run()
    anew = things.beside("anew")
    anew.declare(urls)
    anew.run()
    assert things.frame().drop(*TIMES, "attempts").equals(anew.frame().drop(*TIMES, "attempts"))
    assert not any(report.changed for report in things.run())


# ---- helpers ------------------------------------------------------------------------


class Background(threading.Thread):
    """A call in a thread, with its result or error kept for `join`."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._arguments = arguments
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._call(*self._arguments)
        except BaseException as error:
            self.error = error


def in_background(call: Callable[..., Any], *arguments: Any) -> Background:
    started = Background(call, *arguments)
    started.start()
    return started


def join(started: Background) -> Any:
    started.join(60)
    assert not started.is_alive(), "the run hangs"
    if started.error is not None:
        raise started.error
    return started.result


def again(things: Catalog) -> Catalog:
    """The same catalog through a store object of its own."""
    return Catalog(Store.open(things.store.url), things.folder)


def finished(process: subprocess.Popen[str], expect: str = "") -> int:
    """The exit status of a run in another process, whose errors have to name something."""
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert expect in errors
    return process.returncode


def unfinished_files(things: Catalog) -> list[Path]:
    return list(Path(things.store.url).rglob(f"{TEMPORARY_PREFIX}*"))


def noise() -> bytes:
    """An image that does not compress."""
    pixels = random.Random(1).randbytes(200 * 200 * 3)
    body = io.BytesIO()
    Image.frombytes("RGB", (200, 200), pixels).save(body, "PNG")
    return body.getvalue()


def harm(things: Catalog, file: DataFile, damage: str) -> Path:
    """Damage a file of the ledger; its path."""
    path = flip_bit(things.store, things.table, file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "gone":
        path.unlink()
    return path


def lose_one(things: Catalog, chance: random.Random) -> None:
    stored = sorted({row["sha256"] for row in things.rows().values() if row["sha256"]})
    if stored:
        things.store.blobs.report_missing(chance.choice(stored))
