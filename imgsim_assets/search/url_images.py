"""Images behind URLs: fetched by the images stage, with its guards, limits and retries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage, rejects_table
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.stage import ImagesStage
from imgsim_assets.download.status import OK
from imgsim_assets.images.header import ImageError
from imgsim_assets.progress import Log, silent
from imgsim_assets.search.image_ref import ImageRef
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

_NAME = "pictures"
_SHARD = Shard(0, 1)


def fetch_urls(
    urls: Sequence[str], settings: DownloadSettings, *, log: Log = silent
) -> dict[str, ImageRef]:
    """Fetch every distinct URL once; what could not be had says so when it is read."""
    distinct = sorted(set(urls))
    if not distinct:
        return {}
    # The stage runs an event loop of its own, which a notebook's thread already has.
    with ThreadPoolExecutor(1, "fetch") as thread:
        return thread.submit(_fetch, distinct, settings, log).result()


def _fetch(urls: Sequence[str], settings: DownloadSettings, log: Log) -> dict[str, ImageRef]:
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        store = Store.open(Path(folder) / "store")
        listed = Path(folder) / "urls.parquet"
        pl.DataFrame({"url": urls}).write_parquet(listed)
        source = SourceSettings(path=str(listed), allow_empty=True)
        ItemsStage(store, _NAME, source, shards=_SHARD.count, project_root=Path(folder)).run()
        with ImagesStage(store, _NAME, settings, log=log) as stage:
            stage.run(_SHARD)
        return {url: ImageRef(url, load) for url, load in _loads(store, urls).items()}


def _loads(store: Store, urls: Sequence[str]) -> dict[str, Callable[[], bytes]]:
    """How each URL's bytes, or the reason for having none, are handed over."""
    loads: dict[str, Callable[[], bytes]] = {
        url: partial(_fail, "bad_url", "no URL that can be fetched") for url in urls
    }
    commit = rejects_table(store, _NAME).latest()
    ledger = ledger_table(store, _NAME)
    newest = ledger.latest()
    if commit is None or newest is None:
        raise AssertionError("the stages commit their tables")
    rows = ledger.read(newest).select("id", "status", "detail", "sha256")
    for url, status, detail, sha256 in rows.iter_rows():
        if status == OK:
            loads[url] = partial(bytes, store.blobs.get(sha256))
        else:
            loads[url] = partial(_fail, status, detail or status)
    return loads


def _fail(status: str, detail: str) -> bytes:
    raise ImageError(status, detail)
