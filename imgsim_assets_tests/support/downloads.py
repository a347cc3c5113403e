"""A catalog whose images tests fetch, and its ledger."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.download.ledger.fetch_plan import DueImage
from imgsim_assets.download.ledger.rows import failed_row
from imgsim_assets.download.ledger.table import Row, ledger_table
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.download.status import FetchError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit, PendingCommit, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.processes import BUSY_S

NAME = "things"
NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
URL = "http://shop.example/a.jpg"
TIMES = ("fetched_at", "checked_at", "next_retry_at")
_PROJECT = Path(__file__).parents[2]


def fast_settings(**changes: Any) -> DownloadSettings:
    """Settings that allow loopback, with no retries and with timeouts that suit a busy machine."""
    chosen: dict[str, Any] = {
        "allowed_hosts": ("127.0.0.1",),
        "timeout_s": 30.0,
        "connect_timeout_s": 20.0,
        "read_timeout_s": 20.0,
        "retries": 0,
    }
    return DownloadSettings(**{**chosen, **changes})


def download(
    store: Store,
    name: str,
    settings: DownloadSettings,
    shards: Sequence[Shard],
    *,
    retry: Retry = "retryable",
    log: Log = silent,
) -> list[DownloadReport]:
    """Run the images stage for several shards in turn."""
    with ImagesStage(store, name, settings, retry=retry, log=log) as stage:
        return [stage.run(shard) for shard in shards]


class Catalog:
    """One catalog of a store; `folder` holds its source and its local images."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.shards = 1
        self.table = ledger_table(store, NAME)

    def sibling(self, name: str) -> Catalog:
        """A catalog without items in another store."""
        folder = self.folder.parent / name
        folder.mkdir()
        return Catalog(Store.open(folder / "store"), folder)

    def declare(
        self,
        urls: Mapping[str, str | Sequence[str]],
        *,
        shards: int = 1,
        root: str | None = None,
    ) -> None:
        """Ingest a new version of the catalog with these ids, and the URL or URLs of each."""
        lines = (json.dumps({"id": item, "url": images}) for item, images in urls.items())
        (self.folder / "things.jsonl").write_text("\n".join(lines), encoding="utf-8")
        settings = SourceSettings(path="things.jsonl", root=root, allow_empty=True)
        ItemsStage(self.store, NAME, settings, shards=shards, project_root=self.folder).run()
        self.shards = shards

    def run(
        self,
        settings: DownloadSettings | None = None,
        *,
        only: Sequence[int] | None = None,
        retry: Retry = "retryable",
        log: Log = silent,
    ) -> list[DownloadReport]:
        """Run the images stage for all shards, or for `only` some."""
        indices = range(self.shards) if only is None else only
        shards = [Shard(index, self.shards) for index in indices]
        return download(self.store, NAME, settings or fast_settings(), shards, retry=retry, log=log)

    def commit(self) -> Commit:
        newest = self.table.latest()
        assert newest is not None
        return newest

    def ledger(self) -> pl.DataFrame:
        """The ledger, sorted by id and image."""
        return self.table.read(self.commit()).sort("id", "image")

    def rows(self) -> dict[str, dict[str, Any]]:
        """The ledger's rows by id."""
        return {row["id"]: row for row in self.ledger().iter_rows(named=True)}

    def images(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The ledger's rows by id and number of the image."""
        return {(row["id"], row["image"]): row for row in self.ledger().iter_rows(named=True)}

    def image_urls(self) -> dict[str, list[str]]:
        """The URLs of each item's images in the ledger, by their numbers, which have no gap."""
        urls: dict[str, list[str]] = {}
        for (item, image), row in self.images().items():
            assert image == len(urls.setdefault(item, []))
            urls[item].append(row["url"])
        return urls

    def statuses(self) -> dict[str, str]:
        """The ledger's statuses by id."""
        return {item: row["status"] for item, row in self.rows().items()}

    def committed_rows(self) -> int:
        """The number of rows in the ledger; 0 before its first commit."""
        newest = self.table.latest()
        return self.table.read(newest).height if newest is not None else 0

    def shift_retries(self, by: timedelta) -> None:
        """Commit a ledger whose `next_retry_at` are shifted."""
        self.shift_times(by, "next_retry_at")

    def shift_times(self, by: timedelta, *columns: str) -> None:
        """Commit a ledger whose times are shifted, in all time columns unless some are named."""

        def change(base: Commit | None) -> PendingCommit:
            assert base is not None
            files = base.files
            for index in range(self.shards):
                shard = Shard(index, self.shards)
                rows = self.table.read(base, shard=shard)
                moved = self.table.write_rows(rows.with_columns(pl.col(columns or TIMES) + by))
                files = replace_shard(replace(base, files=files), shard, [moved])
            return PendingCommit(files, inputs=base.inputs, properties=base.properties)

        self.table.commit(change)

    def start(
        self,
        settings: DownloadSettings | None = None,
        *,
        commit_every: float = 3600.0,
        file_size: int | None = None,
        only: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a run of all shards, or of `only` some, in another process.

        `file_size` is the largest file it may write, which is how its disk becomes full.
        """
        options = {
            "store": self.store.url,
            "shards": self.shards,
            "settings": (settings or fast_settings()).model_dump(mode="json"),
            "commit_every": commit_every,
            "file_size": file_size,
            "only": only,
        }
        driver = "imgsim_assets_tests.support.download_driver"
        return subprocess.Popen(
            [sys.executable, "-m", driver, json.dumps(options)],
            cwd=_PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def wait_until(holds: Callable[[], bool], seconds: float = BUSY_S) -> None:
    """Wait until `holds()`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


def success(url: str, sha256: str = "a" * 64, etag: str | None = None) -> Row:
    """The ledger row of item "a" with an image that was fetched at NOW."""
    return {
        "id": "a",
        "url": url,
        "status": "ok",
        "retryable": False,
        "attempts": 0,
        "sha256": sha256,
        "etag": etag,
        "fetched_at": NOW,
    }


def failure(status: str, item: DueImage | None = None) -> Row:
    """The ledger row of an item, by default a new one, that failed at NOW."""
    return failed_row(item or DueImage("a", URL, 0), FetchError(status, "why it failed"), NOW)
