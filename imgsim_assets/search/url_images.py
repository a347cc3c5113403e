"""Images behind URLs, fetched by a catalog pipeline with its guards, limits and retries."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.search.image_ref import ImageRef, failed_image
from imgsim_assets.storage.store import Store

_NAME = "urls"


def is_url(text: str) -> bool:
    """Whether text is an http or https URL, not a path."""
    return text.lower().startswith(("http://", "https://"))


def fetch_urls(
    urls: Sequence[str], settings: DownloadSettings, *, log: Log = silent
) -> dict[str, ImageRef]:
    """Fetch every distinct URL once; reading the image of a failed URL raises ImageError."""
    distinct = sorted(set(urls))
    if not distinct:
        return {}
    # The download runs an event loop, and the thread of a notebook already has one.
    with ThreadPoolExecutor(1, "fetch") as thread:
        return thread.submit(_fetch, distinct, settings, log).result()


def _fetch(urls: Sequence[str], settings: DownloadSettings, log: Log) -> dict[str, ImageRef]:
    with tempfile.TemporaryDirectory(prefix="imgsim-") as folder:
        root = Path(folder)
        store = Store.open(root / "store")
        pl.DataFrame({"id": urls, "url": urls}).write_parquet(root / "urls.parquet")
        catalog = CatalogSettings(
            name=_NAME,
            source=SourceSettings(path="urls.parquet", id="id", url="url", allow_empty=True),
            shards=1,
            download=settings,
        )
        pipeline = CatalogPipeline(store, catalog, root=root, log=log)
        pipeline.ingest()
        with pipeline.open_images() as fetch_shard:
            fetch_shard(*pipeline.shards)
        return _image_refs(store, urls)


def _image_refs(store: Store, urls: Sequence[str]) -> dict[str, ImageRef]:
    ledger = ledger_table(store, _NAME)
    commit = ledger.latest()
    if commit is None:
        raise AssertionError("the download commits its ledger")
    # A rejected URL has no row in the ledger.
    images = {url: failed_image(url, "bad_url", "not a URL that can be fetched") for url in urls}
    rows = ledger.read(commit).select("id", "status", "detail", "sha256")
    for url, status, detail, sha256 in rows.iter_rows():
        if status == OK:
            images[url] = ImageRef(url, partial(bytes, store.blobs.get(sha256)))
        else:
            images[url] = failed_image(url, status, detail or status)
    return images
