"""Routes each item to the reader of its url: HTTP, local folder or object store."""

from __future__ import annotations

import asyncio

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.files.daemon_threads import DaemonThreadPool
from imgsim_assets.download.files.image_folder import ImageFolder, is_local, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger.fetch_plan import FetchItem
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError


class ImageFetcher:
    """Fetches the images of one shard; `folder` is None for a root on a web server."""

    def __init__(
        self,
        http: HttpClient,
        folder: ImageFolder | None,
        objects: RemoteObjects,
        settings: DownloadSettings,
    ) -> None:
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

    def idle_count(self) -> int:
        """How many HTTP requests wait for a server that sends nothing."""
        return self._http.idle_count()

    async def fetch(self, item: FetchItem) -> Fetched:
        """The item's image; without data when its cached version is the newest."""
        row = item.cached
        cached = Validators(row["etag"], row["last_modified"]) if row is not None else None
        if is_web(item.url):
            return await self._http.fetch(item.url, cached)
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._folder is not None and is_local(item.url):
                    return await self._folder_threads.call(self._folder.read, item.url)
                return await self._object_threads.call(self._objects.read, item.url, cached)
        except TimeoutError:
            raise FetchError("timeout", f"not finished in {self._timeout_s:g} s") from None
