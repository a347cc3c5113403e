"""Images that lie in a folder (local or remote) instead of behind a URL."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from imgsim_assets.download.http.client import Fetched
from imgsim_assets.download.status import FetchError

# Objects whose versions are asked for at the same time: each answer takes a while.
_ASKED_AT_ONCE = 32
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_local(url: str) -> bool:
    """Whether a catalog's url is a path (or file URL) rather than a URL of another kind."""
    return _REMOTE.match(url) is None


def is_web(url: str) -> bool:
    """Whether a catalog's url is fetched over HTTP."""
    return url[:8].lower().startswith(("http://", "https://"))


def below(root: str, url: str) -> str:
    """A catalog's url whose root lies on a web server: a path is a URL from there on."""
    return urljoin(f"{root.rstrip('/')}/", quote(url)) if is_local(url) else url


class ImageFolder:
    """The one folder a catalog's local images may lie in.

    `root` is a local path or an fsspec URL. Relative paths start there; absolute ones must
    lead into it, also after symbolic links are followed.
    """

    def __init__(self, root: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._fs: Any = None
        self._root = root
        if "://" in root:
            import fsspec

            self._fs, self._root = fsspec.core.url_to_fs(root)

    def stamp(self, url: str) -> str | None:
        """Something that changes when the file does; None when there is no such file."""
        try:
            if self._fs is not None:
                return self._remote_stamp(url)
            status = os.stat(self._local_path(url))
        except (OSError, FetchError):
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    def stamps(self, urls: Iterable[str]) -> Callable[[str], str | None]:
        """`stamp` for these urls; of a remote root many are asked for at once, and now."""
        if self._fs is None:
            return self.stamp
        wanted = list(filter(is_local, urls))
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            return dict(zip(wanted, pool.map(self.stamp, wanted), strict=True)).get

    def read(self, url: str) -> Fetched:
        """The image's bytes, with `stamp` as etag; raises FetchError."""
        # Taken before the file is read: what somebody still writes is read again.
        stamp = self.stamp(url)
        try:
            data = self._read_remote(url) if self._fs is not None else self._read_local(url)
        except FileNotFoundError:
            raise FetchError("missing_file", f"there is no {url}") from None
        except IsADirectoryError:
            raise FetchError("missing_file", f"{url} is no file", etag=stamp) from None
        except OSError as error:
            # Without an etag, because its mend (a permission, a mount) need not change the
            # file: it is tried again by every run.
            raise FetchError("unreadable_file", str(error)) from error
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes", etag=stamp)
        if not data:
            raise FetchError("truncated_body", "the file is empty", etag=stamp)
        return Fetched(data, etag=stamp)

    def _read_local(self, url: str) -> bytes:
        path = self._local_path(url)
        # Opening a pipe would wait for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise IsADirectoryError(path)  # or a device, which is not to be read either
        with open(path, "rb") as file:
            return file.read(self._max_bytes + 1)

    def _local_path(self, url: str) -> Path:
        try:
            root = Path(self._root).resolve()
            path = (root / _plain_path(url)).resolve()
        except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
            raise FetchError("bad_url", str(error)) from error
        if not path.is_relative_to(root):
            raise FetchError(
                "blocked_path", f"{path} lies outside {root}; set 'root:' of the source"
            )
        return path

    # Filesystems behind fsspec raise errors of their own libraries: any of them means that
    # this one file could not be had.

    def _remote_stamp(self, url: str) -> str | None:
        try:
            info: dict[str, Any] = self._fs.info(self._remote_path(url))
        except Exception:
            return None
        return stamp_of(info)

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


def stamp_of(info: dict[str, Any]) -> str:
    """Something that changes when a file does, of what an fsspec filesystem says about it."""
    version = info.get("ETag") or info.get("etag") or info.get("LastModified")
    return f"{info.get('size')}-{version or info.get('mtime')}"


def _plain_path(url: str) -> str:
    if not url.lower().startswith("file://"):
        return url
    try:
        return unquote(urlsplit(url).path)
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
