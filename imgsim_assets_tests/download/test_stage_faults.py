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
from imgsim_assets_tests.support.downloads import NAME, TIMES, Catalog, fast_settings, wait_until
from imgsim_assets_tests.support.faulty_server import Connection, FaultyServer, PageServer, response
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.processes import BUSY_S

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- concurrent runs ----------------------------------------------------------------


@pytest.fixture
def expired_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases expire at once, so that concurrent runs do not wait for each other."""
    monkeypatch.setattr(lease, "STALE_SECONDS", -60.0)


def test_concurrent_runs_wait_for_the_run_with_the_lease(catalog: Catalog) -> None:
    messages: list[str] = []
    gets: Counter[str] = Counter()

    def page(connection: Connection) -> None:
        gets[connection.path] += 1
        connection.wait(lambda: len(messages) == 2)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with FaultyServer(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(20)}
        catalog.declare(urls)
        patient = fast_settings(timeout_s=30, read_timeout_s=30)

        def run() -> list[DownloadReport]:
            return reopen(catalog).run(patient, retry="all", log=messages.append)

        reports = [join(one)[0] for one in [in_background(run) for _ in range(3)]]
    assert gets == {f"/{number}": 1 for number in range(20)}
    assert sorted(report.requested for report in reports) == [0, 0, 20]
    assert [report.statuses for report in reports] == [{"ok": 20}] * 3
    assert all("another run is working on" in line for line in messages[:2])


def test_failure_of_a_concurrent_run_is_not_retried_at_once(
    catalog: Catalog,
) -> None:
    messages: list[str] = []

    def page(connection: Connection) -> None:
        connection.wait(lambda: len(messages) == 1)
        connection.send(response(status=b"404 Not Found"))

    with FaultyServer(page) as server:
        catalog.declare({"a": server.url("/a")})
        patient = fast_settings(timeout_s=30, read_timeout_s=30)

        def run() -> list[DownloadReport]:
            return reopen(catalog).run(patient, retry="all", log=messages.append)

        for one in [in_background(run) for _ in range(2)]:
            join(one)
        assert server.requests == ["/a"]


@pytest.mark.usefixtures("expired_leases")
def test_concurrent_runs_without_lease_end_with_one_correct_ledger(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.02)

    def page(connection: Connection) -> None:
        connection.wait(lambda: len(server.requests) == 40)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with FaultyServer(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(20)}
        catalog.declare(urls)
        settings = fast_settings(max_per_host=80, timeout_s=60, read_timeout_s=60)
        both = [in_background(reopen(catalog).run, settings) for _ in range(2)]
        reports = [join(run)[0] for run in both]
        assert len(server.requests) == 40
        assert [report.statuses for report in reports] == [{"ok": 20}] * 2
        assert catalog.statuses() == dict.fromkeys(urls, "ok")
        assert [(file.rows, file.is_snapshot) for file in catalog.commit().files] == [(20, True)]
        assert [report.changed for report in catalog.run()] == [False]
    assert len(server.requests) == 40


def test_concurrent_processes_end_with_one_correct_ledger(
    catalog: Catalog, shop: PageServer
) -> None:
    for number in range(30):
        shop.pages[f"/{number}"] = response(jpeg(number)) if number % 5 else BUSY
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(30)}
    catalog.declare(urls, shards=3)
    both = [catalog.start(commit_every=0.05) for _ in range(2)]
    for process in both:
        assert wait_for_exit(process) == 0
    assert catalog.statuses() == {
        f"item {number}": "ok" if number % 5 else "http_503" for number in range(30)
    }
    assert sorted(file.shard or 0 for file in catalog.commit().files) == [0, 1, 2]
    seen = len(shop.requests)
    assert seen == 30
    assert not any(report.changed for report in catalog.run())
    assert len(shop.requests) == seen


@pytest.mark.usefixtures("expired_leases")
def test_run_on_an_older_catalog_does_not_undo_a_newer_run(catalog: Catalog) -> None:
    newer_is_done = threading.Event()

    def page(connection: Connection) -> None:
        if connection.path == "/old":
            connection.wait(newer_is_done.is_set)
        connection.send(response(jpeg(1) if connection.path == "/old" else jpeg(2)))

    with FaultyServer(page) as server:
        catalog.declare({"kept": server.url("/old"), "removed": server.url("/old")})
        older = in_background(reopen(catalog).run, fast_settings(timeout_s=30, read_timeout_s=30))
        wait_until(lambda: len(server.requests) == 2)
        catalog.declare({"kept": server.url("/new")})
        catalog.run()
        newer_is_done.set()
        join(older)
    assert {item: row["url"] for item, row in catalog.rows().items()} == {
        "kept": server.url("/new")
    }


@pytest.mark.usefixtures("expired_leases")
def test_failure_does_not_replace_an_image_of_a_concurrent_run(
    catalog: Catalog,
) -> None:
    other_is_done = threading.Event()

    def page(connection: Connection) -> None:
        is_first = len(server.requests) == 1
        if is_first:
            connection.wait(other_is_done.is_set)
        connection.send(BUSY if is_first else response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({"a": server.url("/a.jpg")})
        failing = in_background(reopen(catalog).run, fast_settings(timeout_s=30, read_timeout_s=30))
        wait_until(lambda: len(server.requests) == 1)
        catalog.run()
        assert catalog.statuses() == {"a": "ok"}
        other_is_done.set()
        join(failing)
    assert catalog.statuses() == {"a": "ok"}


# ---- interrupted runs ---------------------------------------------------------------


def test_killed_run_keeps_its_commits(catalog: Catalog) -> None:
    numbers = itertools.count()
    answered: dict[str, datetime] = {}
    killed = threading.Event()

    def page(connection: Connection) -> None:
        number = next(numbers)
        if number < 45:
            connection.wait(lambda: len(catalog.table.versions()) >= number // 15)
        else:
            connection.wait(killed.is_set)
        connection.send(response(jpeg(int(connection.path[1:]))))
        answered[connection.path] = datetime.now(UTC)

    with FaultyServer(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(60)}
        catalog.declare(urls)
        patient = fast_settings(max_per_host=4, timeout_s=60, read_timeout_s=60)
        run = catalog.start(patient, commit_every=0.3)
        wait_until(lambda: len(catalog.table.versions()) >= 3)
        run.send_signal(signal.SIGKILL)
        assert wait_for_exit(run) == -signal.SIGKILL
        killed.set()

        committed = catalog.rows()
        request_count = len(server.requests)
        *_, before_last, _ = catalog.table.versions()
        safe = datetime.fromisoformat(catalog.table.at(before_last).committed_at)
        fetched_before = {path for path, moment in answered.items() if moment < safe}
        assert fetched_before <= {f"/{int(item[-2:])}" for item in committed}
        assert 15 <= len(committed) < 60
        for row in committed.values():
            assert row["status"] == "ok"
            assert catalog.store.blobs.get(row["sha256"])

        catalog.run()
        assert catalog.statuses() == dict.fromkeys(urls, "ok")
        assert len(server.requests) == request_count + 60 - len(committed)
        assert not {urls[item] for item in committed} & {
            server.url(path) for path in server.requests[request_count:]
        }
    assert len(catalog.commit().files) == 1


def test_interrupted_run_commits_everything_it_fetched(catalog: Catalog) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if len(server.requests) > 10:
            connection.wait(interrupted.is_set)
        connection.send(response(IMAGE))

    with FaultyServer(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(20)}
        catalog.declare(urls)
        run = catalog.start(fast_settings(max_per_host=1, timeout_s=60, read_timeout_s=60))
        wait_until(lambda: len(server.requests) == 11)
        run.send_signal(signal.SIGINT)
        assert wait_for_exit(run) != 0
        interrupted.set()
        assert catalog.statuses() == dict.fromkeys(sorted(urls)[:10], "ok")
        catalog.run()
        assert catalog.statuses() == dict.fromkeys(urls, "ok")
        assert len(server.requests) == 21


def test_run_interrupted_while_a_commit_is_due_ends(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that arrived are stored at the end, which wakes the commits being cancelled."""
    monkeypatch.setattr(image_writer, "_MAX_DELAY_SECONDS", 60.0)
    monkeypatch.setattr(writer, "_MAX_PENDING_ROWS", 4)
    monkeypatch.setattr(writer, "_ROWS_PER_FRAME", 4)
    run = shard_downloader.ShardDownloader.run

    async def interrupted(one: shard_downloader.ShardDownloader) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        await run(one)

    monkeypatch.setattr(shard_downloader.ShardDownloader, "run", interrupted)
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(4)})
    shop.pages["/silent"] = lambda connection: connection.send_repeatedly(b"")
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(4)}
    catalog.declare(urls | {"silent": shop.url("/silent")})
    with pytest.raises(asyncio.CancelledError):
        join(in_background(catalog.run, fast_settings(timeout_s=60, read_timeout_s=60)))
    assert catalog.statuses() == dict.fromkeys(urls, "ok")


def test_interrupted_event_loop_fails_no_item(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a signal handler that raises in the middle of the event loop."""
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
    with FaultyServer(page) as server:
        catalog.declare({f"item {number:04}": server.url(f"/{number}") for number in range(2000)})
        with pytest.raises(KeyboardInterrupt):
            catalog.run(fast_settings(timeout_s=60, read_timeout_s=60))
    assert set(catalog.statuses().values()) == {"ok"}


def test_full_disk_fails_the_run_and_keeps_fetched_images(
    catalog: Catalog, shop: PageServer
) -> None:
    large = noisy_image()
    assert len(large) > 60_000
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(5)})
    shop.pages["/large"] = response(large)
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(5)}
    catalog.declare(urls | {"large": shop.url("/large")})
    run = catalog.start(fast_settings(max_per_host=1), file_size=60_000)
    assert wait_for_exit(run, expect="File too large") == 1
    assert catalog.statuses() == dict.fromkeys(urls, "ok")
    assert temporary_files(catalog) == []
    catalog.run()
    assert catalog.statuses() == dict.fromkeys([*urls, "large"], "ok")
    assert shop.gets == {f"/{number}": 1 for number in range(5)} | {"/large": 2}


def test_failed_upload_fails_only_its_shard(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Catalog(Store.open("memory://an-upload-that-fails/store"), catalog.folder)
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(20)})
    away.declare({f"item {number}": shop.url(f"/{number}") for number in range(20)}, shards=2)
    upload, fails = away.store.files.upload, iter([True])

    def is_away_for_a_moment(path: str, local: Path) -> None:
        if next(fails, False):
            raise OSError("the object store is away")
        upload(path, local)

    monkeypatch.setattr(away.store.files, "upload", is_away_for_a_moment)
    with ImagesStage(away.store, NAME, fast_settings()) as images:
        with pytest.raises(OSError, match="is away"):
            images.run(Shard(0, 2))
        second = images.run(Shard(1, 2))
    assert second.statuses == {"ok": second.items}
    away.run()
    assert away.statuses() == {f"item {number}": "ok" for number in range(20)}


def test_hanging_object_store_delays_neither_commits_nor_other_items(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
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
    catalog.declare(urls | silent)
    chosen = fast_settings(
        allowed_url_prefixes=("s3://bucket/",),
        max_per_host=30,
        circuit_breaker_threshold=40,
        timeout_s=4,
    )
    try:
        with ImagesStage(
            catalog.store, NAME, chosen, on_commit=lambda _: committed.set()
        ) as images:
            report = images.run(Shard(0, 1))
    finally:
        answers.set()
    assert report.statuses == {"ok": 20, "timeout": 30}


def test_disk_too_full_for_the_ledger_keeps_the_last_version(
    catalog: Catalog, shop: PageServer
) -> None:
    tiny = encoded(make_image(1, (4, 4)), "PNG")
    shop.pages.update({"/a": response(tiny), "/b": response(tiny)})
    catalog.declare({"a": shop.url("/a")})
    catalog.run()
    before = catalog.ledger()
    catalog.declare({"a": shop.url("/a"), "b": shop.url("/b")})
    assert wait_for_exit(catalog.start(file_size=1000), expect="File too large") == 1
    assert catalog.table.versions() == [1]
    assert catalog.ledger().equals(before)
    assert temporary_files(catalog) == []
    catalog.run()
    assert catalog.statuses() == {"a": "ok", "b": "ok"}
    assert shop.gets == {"/a": 1, "/b": 2}


def test_changed_settings_retry_refusals_of_an_interrupted_run(
    catalog: Catalog,
) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if connection.path == "/last" and len(server.requests) == 4:
            connection.wait(interrupted.is_set)
        connection.send(response(IMAGE))

    with FaultyServer(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(3)}
        urls["last"] = server.url("/last")
        catalog.declare(urls)
        mistaken = fast_settings(
            max_megabytes=0.001, max_per_host=1, timeout_s=60, read_timeout_s=60
        )
        run = catalog.start(mistaken)
        wait_until(lambda: len(server.requests) == 4)
        run.send_signal(signal.SIGINT)
        assert wait_for_exit(run) != 0
        interrupted.set()
        assert set(catalog.statuses().values()) == {"too_large"}
        catalog.run()
        assert catalog.statuses() == dict.fromkeys(urls, "ok")


@pytest.mark.parametrize("most_appended", [0, 32], ids=["merged", "appended"])
def test_changed_settings_retry_refusals_that_an_interrupted_run_did_not_reach(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch, most_appended: int
) -> None:
    monkeypatch.setattr(writer, "_MAX_DELTA_FILES", most_appended)
    real = HttpClient.fetch

    async def fetch(fetcher: HttpClient, url: str, cached: Validators | None) -> Fetched:
        if url.endswith("/2"):
            raise KeyboardInterrupt
        return await real(fetcher, url, cached)

    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(4)})
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(4)}
    catalog.declare(urls)
    catalog.run(fast_settings(max_megabytes=0.001))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(HttpClient, "fetch", fetch)
        with pytest.raises(KeyboardInterrupt):
            catalog.run(fast_settings(concurrency=1))
    assert list(catalog.statuses().values()) == ["ok", "ok", "too_large", "too_large"]
    catalog.run()
    assert catalog.statuses() == dict.fromkeys(urls, "ok")
    assert len(shop.requests) == 8


# ---- corrupt files ------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_items_of_a_corrupt_ledger_file_are_fetched_again(
    catalog: Catalog, shop: PageServer, damage: str
) -> None:
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(12)}
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(11)})
    catalog.declare(urls, shards=3)
    before = [report.data_version for report in catalog.run()]
    ledger = catalog.ledger()
    damaged = catalog.commit().files_of_shard(Shard(1, 3))[0]
    path = damage_file(catalog, damaged, damage)
    messages: list[str] = []
    reports = catalog.run(log=messages.append)
    assert [report.requested for report in reports] == [0, damaged.rows, 0]
    assert [report.changed for report in reports] == [False, True, False]
    assert [report.data_version for report in reports] == before
    assert catalog.ledger().drop(TIMES).equals(ledger.drop(TIMES))
    assert catalog.table.verify_checksums(catalog.commit())
    assert len(shop.requests) == 12 + (damaged.rows or 0)
    assert any(str(path) in line for line in messages)
    assert not any(report.changed for report in catalog.run())


def test_corrupt_delta_file_affects_only_its_items(
    catalog: Catalog,
) -> None:
    interrupted = threading.Event()

    def page(connection: Connection) -> None:
        if len(server.requests) == 6:
            connection.wait(interrupted.is_set)
        connection.send(response(jpeg(int(connection.path[1:]))))

    with FaultyServer(page) as server:
        urls = {f"item {number}": server.url(f"/{number}") for number in range(8)}
        catalog.declare(dict(list(urls.items())[:3]))
        catalog.run()
        catalog.declare(urls)
        run = catalog.start(fast_settings(max_per_host=1, timeout_s=60, read_timeout_s=60))
        wait_until(lambda: len(server.requests) == 6)
        run.send_signal(signal.SIGINT)
        assert wait_for_exit(run) != 0
        interrupted.set()
        complete, appended = catalog.commit().files
        assert (complete.rows, appended.rows) == (3, 2)
        damage_file(catalog, appended, "flipped")
        catalog.run()
        assert catalog.statuses() == dict.fromkeys(urls, "ok")
        assert Counter(server.requests) == {
            f"/{number}": 1 if number in (0, 1, 2, 6, 7) else 2 for number in range(8)
        }
    assert catalog.table.verify_checksums(catalog.commit())


def test_corrupt_ledger_of_an_empty_shard_is_replaced(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")}, shards=2)
    catalog.run()
    [empty] = [file for file in catalog.commit().files if not file.rows]
    damage_file(catalog, empty, "flipped")
    catalog.run()
    assert catalog.statuses() == {"a": "ok"}
    assert catalog.table.verify_checksums(catalog.commit())
    assert shop.gets == {"/a.jpg": 1}


def test_corrupt_files_of_the_former_number_of_shards_are_replaced(
    catalog: Catalog, shop: PageServer
) -> None:
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(12)}
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(12)})
    catalog.declare(urls, shards=2)
    catalog.run()
    for file in catalog.commit().files:
        damage_file(catalog, file, "flipped")
    catalog.declare(urls, shards=3)
    catalog.run(only=[0])
    catalog.run(only=[1, 2])
    assert catalog.statuses() == dict.fromkeys(urls, "ok")
    assert catalog.table.verify_checksums(catalog.commit())
    assert len(shop.requests) == 24


# ---- any history --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_with_the_ledger_of_a_full_run(
    catalog: Catalog, shop: PageServer, seed: int
) -> None:
    """Whatever is added, changed, removed, busy, missing or corrupt in between."""
    rng = random.Random(seed)
    pages = [f"/{number}" for number in range(12)]
    busy: set[str] = set()

    def page(connection: Connection) -> None:
        number = int(connection.path[1:])
        good = response(jpeg(number % 6)) if number < 10 else response(b"<html>")
        connection.send(BUSY if connection.path in busy else good)

    shop.pages.update(dict.fromkeys(pages, page))
    urls: dict[str, str] = {}
    for _ in range(8):
        for changed in rng.sample(range(15), 4):
            urls[f"item {changed}"] = shop.url(rng.choice([*pages, "/nowhere"]))
        for removed in rng.sample(sorted(urls), 2):
            del urls[removed]
        busy = set(rng.sample(pages, 3))
        catalog.declare(urls, shards=rng.choice([1, 2, 3]))
        catalog.run(fast_settings(concurrency=rng.choice([1, 8])))
        if rng.random() < 0.5:
            catalog.shift_retries(-timedelta(days=1))
        if rng.random() < 0.5:
            lose_random_image(catalog, rng)
        if rng.random() < 0.3:
            damage_file(catalog, rng.choice(catalog.commit().files), "flipped")
            catalog.run()
    busy.clear()
    catalog.shift_retries(-timedelta(days=1))
    catalog.run()
    full = catalog.sibling("full")
    full.declare(urls)
    full.run()
    assert catalog.ledger().drop(*TIMES, "attempts").equals(full.ledger().drop(*TIMES, "attempts"))
    assert not any(report.changed for report in catalog.run())


# ---- helpers ------------------------------------------------------------------------


class Background(threading.Thread):
    """A call in a thread, whose result or error `join` returns or raises."""

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


def reopen(catalog: Catalog) -> Catalog:
    """The same catalog through another store object."""
    return Catalog(Store.open(catalog.store.url), catalog.folder)


def wait_for_exit(process: subprocess.Popen[str], expect: str = "") -> int:
    """The exit status of a run in another process, whose stderr must contain `expect`."""
    try:
        _, errors = process.communicate(timeout=BUSY_S)
    finally:
        process.kill()
    assert expect in errors
    return process.returncode


def temporary_files(catalog: Catalog) -> list[Path]:
    return list(Path(catalog.store.url).rglob(f"{TEMPORARY_PREFIX}*"))


def noisy_image() -> bytes:
    """An image that does not compress."""
    pixels = random.Random(1).randbytes(200 * 200 * 3)
    body = io.BytesIO()
    Image.frombytes("RGB", (200, 200), pixels).save(body, "PNG")
    return body.getvalue()


def damage_file(catalog: Catalog, file: DataFile, damage: str) -> Path:
    """Damage a file of the ledger; returns its path."""
    path = flip_bit(catalog.store, catalog.table, file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "gone":
        path.unlink()
    return path


def lose_random_image(catalog: Catalog, rng: random.Random) -> None:
    stored = sorted({row["sha256"] for row in catalog.rows().values() if row["sha256"]})
    if stored:
        catalog.store.blobs.report_missing(rng.choice(stored))
