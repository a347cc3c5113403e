"""Images in the folder of a catalog, local or remote."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from imgsim_assets.download.fetched import Fetched
from imgsim_assets.download.status import FetchError

# Each request for the version of a remote file takes one round trip.
_VERSION_THREADS = 32
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://|sha256:[0-9a-f]{64}$", re.IGNORECASE)


def is_local(url: str) -> bool:
    """Whether an item's url is a path or file URL."""
    return _REMOTE.match(url) is None


def is_web(url: str) -> bool:
    """Whether an item's url is fetched over HTTP."""
    return url[:8].lower().startswith(("http://", "https://"))


def resolve_relative_url(root: str, url: str) -> str:
    """An item's url under a root on a web server: a path becomes a URL below the root."""
    return urljoin(f"{root.rstrip('/')}/", quote(url)) if is_local(url) else url


class ImageFolder:
    """The one folder that may contain the local images of a catalog.

    `root` is a local path or an fsspec URL. Relative paths start there. Absolute paths must lead
    into it, also after symbolic links are followed.
    """

    def __init__(self, root: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._fs: Any = None
        self._root = root
        if "://" in root:
            import fsspec

            self._fs, self._root = fsspec.core.url_to_fs(root)

    def file_version(self, url: str) -> str | None:
        """A text that changes when the file changes; None when there is no such file."""
        try:
            if self._fs is not None:
                return self._remote_version(url)
            status = os.stat(self._local_path(url))
        except (OSError, FetchError):
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    def file_versions(self, urls: Iterable[str]) -> Callable[[str], str | None]:
        """`file_version` for these urls; those of a remote root are requested now, in parallel."""
        if self._fs is None:
            return self.file_version
        paths = list(filter(is_local, urls))
        with ThreadPoolExecutor(_VERSION_THREADS) as pool:
            return dict(zip(paths, pool.map(self.file_version, paths), strict=True)).get

    def read(self, url: str) -> Fetched:
        """The image's bytes, with the file version as etag.

        Raises:
            FetchError: for every failure.
        """
        # Before the read: a file that is still being written is read again by the next run.
        version = self.file_version(url)
        try:
            data = self._read_remote(url) if self._fs is not None else self._read_local(url)
        except FileNotFoundError:
            raise FetchError("missing_file", f"there is no {url}") from None
        except IsADirectoryError:
            raise FetchError("missing_file", f"{url} is not a file", etag=version) from None
        except OSError as error:
            # Without an etag: a fix such as a permission or a mount need not change the file,
            # so every run tries it again.
            raise FetchError("unreadable_file", str(error)) from error
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes", etag=version)
        if not data:
            raise FetchError("truncated_body", "the file is empty", etag=version)
        return Fetched(data, etag=version)

    def _read_local(self, url: str) -> bytes:
        path = self._local_path(url)
        # Opening a pipe would block until another process writes into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise IsADirectoryError(path)  # or a device, which must not be read either
        with open(path, "rb") as file:
            return file.read(self._max_bytes + 1)

    def _local_path(self, url: str) -> Path:
        try:
            root = Path(self._root).resolve()
            path = (root / _plain_path(url)).resolve()
        except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
            raise FetchError("bad_url", str(error)) from error
        if not path.is_relative_to(root):
            raise FetchError("blocked_path", f"{path} is outside {root}; set 'root:' of the source")
        return path

    # Filesystems behind fsspec raise errors of their own libraries; one fails only its own file.

    def _remote_version(self, url: str) -> str | None:
        try:
            info: dict[str, Any] = self._fs.info(self._remote_path(url))
        except Exception:
            return None
        return object_version(info)

    def _read_remote(self, url: str) -> bytes:
        path = self._remote_path(url)
        try:
            with self._fs.open(path, "rb") as file:
                data: bytes = file.read(self._max_bytes + 1)
                return data
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _remote_path(self, url: str) -> str:
        path = _plain_path(url)
        if path.startswith("/") or ".." in path.split("/"):
            raise FetchError("blocked_path", f"{url} leads out of {self._root}")
        return f"{self._root}/{path}"


def object_version(info: dict[str, Any]) -> str:
    """A text that changes when a file changes, from the info of its fsspec filesystem."""
    version = info.get("ETag") or info.get("etag") or info.get("LastModified")
    return f"{info.get('size')}-{version or info.get('mtime')}"


def _plain_path(url: str) -> str:
    if not url.lower().startswith("file://"):
        return url
    try:
        return unquote(urlsplit(url).path)
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
