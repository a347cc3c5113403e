"""Routes each image to the reader of its url: HTTP, local folder, object store or the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile

from imgsim_assets.catalog.locations import EMBEDDED
from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.files.daemon_threads import DaemonThreadPool
from imgsim_assets.download.files.image_folder import ImageFolder, is_local, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger.fetch_plan import DueImage
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.blobs import Blobs


class ImageFetcher:
    """Fetches the images of one shard.

    `folder` is None for a root on a web server. Images that a list holds itself are among the
    `blobs` since the list was read.
    """

    def __init__(
        self,
        http: HttpClient,
        folder: ImageFolder | None,
        objects: RemoteObjects,
        settings: DownloadSettings,
        blobs: Blobs,
    ) -> None:
        self._blobs = blobs
        self._http = http
        self._folder = folder
        self._objects = objects
        self._timeout_s = settings.timeout_s
        # A pool for each, so that an object store that does not answer delays no local file.
        self._folder_threads = DaemonThreadPool(settings.concurrency)
        self._object_threads = DaemonThreadPool(settings.concurrency)

    def close(self) -> None:
        """Stop waiting for reads."""
        self._folder_threads.close()
        self._object_threads.close()

    @property
    def reads_batches(self) -> bool:
        """Whether images without a host are files that `read_files` reads."""
        return self._folder is not None and not self._folder.is_remote

    async def read_files(self, urls: Sequence[str]) -> Sequence[Fetched | FetchError]:
        """The first of some local files, at least one: a thread reads many at a time.

        Raises:
            TimeoutError: one of them took longer than a request may take.
        """
        if self._folder is None:
            raise AssertionError("only a catalog with a local root has files")
        is_embedded = urls[0].startswith(EMBEDDED)
        urls = list(takewhile(lambda url: url.startswith(EMBEDDED) == is_embedded, urls))
        if is_embedded:
            return await self._folder_threads.call(self._read_all_embedded, urls)
        async with asyncio.timeout(self._timeout_s):
            return await self._folder_threads.call(self._folder.read_batch, urls)

    def idle_count(self) -> int:
        """How many HTTP requests wait for a server that sends nothing."""
        return self._http.idle_count()

    async def fetch(self, due: DueImage) -> Fetched:
        """The image; without data when its cached version is the newest."""
        row = due.cached
        cached = Validators(row["etag"], row["last_modified"]) if row is not None else None
        if is_web(due.url):
            return await self._http.fetch(due.url, cached)
        if due.url.startswith(EMBEDDED):
            return await self._folder_threads.call(self._read_embedded, due.url)
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._folder is not None and is_local(due.url):
                    return await self._folder_threads.call(self._folder.read, due.url)
                return await self._object_threads.call(self._objects.read, due.url, cached)
        except TimeoutError:
            raise FetchError("timeout", f"not finished in {self._timeout_s:g} s") from None

    def _read_all_embedded(self, urls: Sequence[str]) -> list[Fetched | FetchError]:
        results: list[Fetched | FetchError] = []
        for url in urls:
            try:
                results.append(self._read_embedded(url))
            except FetchError as error:
                results.append(error)
        return results

    def _read_embedded(self, url: str) -> Fetched:
        try:
            return Fetched(self._blobs.get(url.removeprefix(EMBEDDED)))
        except StoreError as error:
            raise FetchError("missing_file", f"{error}; materialize the items again") from error
