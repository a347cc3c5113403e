"""Images in the folder of a catalog, local or remote."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from imgsim_assets.download.fetched import Fetched
from imgsim_assets.download.settings import ImageBytes
from imgsim_assets.download.status import FetchError
from imgsim_assets.storage.references import file_version, object_version

# Each request for the version of a remote file takes one round trip.
_VERSION_THREADS = 32
# Files are read in batches of about this size.
_BATCH_BYTES = 8 * 2**20
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
    into it, also after symbolic links are followed. `image_bytes` says whether the store copies
    the images or refers to them; by default it refers to those of a local root.
    """

    def __init__(self, root: str, max_bytes: int, image_bytes: ImageBytes | None = None) -> None:
        self._max_bytes = max_bytes
        self._fs: Any = None
        self._root = root
        if "://" in root:
            import fsspec

            self._fs, self._root = fsspec.core.url_to_fs(root)
        else:
            self._root = str(Path(root).resolve())
        default: ImageBytes = "copy" if self._fs is not None else "reference"
        self._is_referenced = (image_bytes or default) == "reference"
        self._folders: dict[str, bool] = {}

    @property
    def is_remote(self) -> bool:
        """Whether each read takes a round trip."""
        return self._fs is not None

    def file_version(self, url: str) -> str | None:
        """A text that changes when the file changes; None when there is no such file."""
        try:
            if self._fs is not None:
                return self._remote_version(url)
            return file_version(self._inspect(self._path(url))[0])
        except (OSError, ValueError, FetchError):
            return None

    def file_versions(self, urls: Iterable[str]) -> Callable[[str], str | None]:
        """`file_version` for these urls; those of a remote root are requested now, in parallel."""
        if self._fs is None:
            return self.file_version
        paths = list(filter(is_local, urls))
        with ThreadPoolExecutor(_VERSION_THREADS) as pool:
            return dict(zip(paths, pool.map(self.file_version, paths), strict=True)).get

    def location(self, url: str) -> str | None:
        """Where the store finds an image that it refers to; None if it is to copy the image."""
        if not self._is_referenced:
            return None
        try:
            return self._path(url) if self._fs is None else self._remote_location(url)
        except FetchError:
            return None

    def read(self, url: str) -> Fetched:
        """The image's bytes, with the file version as etag.

        Raises:
            FetchError: for every failure.
        """
        version: str | None = None
        is_link: bool | None = None
        try:
            if self._fs is not None:
                # Before the read: a file that is still being written is read again by the next run.
                version, location = self._remote_version(url), self._remote_location(url)
                data = self._read_remote(url)
            else:
                location = self._path(url)
                status, is_link = self._inspect(location)
                version = file_version(status)
                data = _read_file(location, status, self._max_bytes + 1)
        except FileNotFoundError:
            raise FetchError("missing_file", f"there is no file {url!r}") from None
        except IsADirectoryError:
            raise FetchError("missing_file", f"{url} is not a file", etag=version) from None
        except OSError as error:
            # Without an etag: a fix such as a permission or a mount need not change the file,
            # so every run tries it again.
            raise FetchError("unreadable_file", str(error)) from error
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes", etag=version)
        if not data:
            raise FetchError("truncated", "the file is empty", etag=version)
        kept_in = location if self._is_referenced else None
        return Fetched(data, version, location=kept_in, is_link=is_link)

    def read_batch(self, urls: Sequence[str]) -> list[Fetched | FetchError]:
        """`read` for the first of these urls, until they have many bytes; at least for one."""
        results: list[Fetched | FetchError] = []
        size = 0
        for url in urls:
            try:
                fetched = self.read(url)
            except FetchError as error:
                results.append(error)
                continue
            except Exception as error:
                # A defect that one file reveals must not stop the others.
                results.append(FetchError("internal_error", f"{type(error).__name__}: {error}"))
                continue
            results.append(fetched)
            size += len(fetched.data or b"")
            if size >= _BATCH_BYTES:
                break
        return results

    def _path(self, url: str) -> str:
        path = plain_path(url)
        if "\0" in path:
            raise FetchError("bad_url", "the path holds a NUL character")
        is_absolute = path.startswith("/")
        return os.path.normpath(path if is_absolute else f"{self._root}/{path}")

    def _inspect(self, path: str) -> tuple[os.stat_result, bool]:
        """The status of a file inside of the root, and whether its path is a symbolic link."""
        folder, _, _ = path.rpartition("/") if path != self._root else (path, "", "")
        # Most files share a folder, so that its links are followed once.
        is_inside = self._folders.get(folder)
        if is_inside is None:
            is_inside = self._folders[folder] = self._is_inside(folder)
        if not is_inside:
            raise self._blocked(path)
        status = os.stat(path, follow_symlinks=False)
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link:
            if not self._is_inside(path):
                raise self._blocked(path)
            status = os.stat(path)
        return status, is_link

    def _is_inside(self, path: str) -> bool:
        try:
            return Path(path).resolve().is_relative_to(self._root)
        except (ValueError, RuntimeError) as error:  # a loop of links
            raise FetchError("bad_url", str(error)) from error

    def _blocked(self, path: str) -> FetchError:
        message = f"{Path(path).resolve()} is outside {self._root}; set 'root:' of the source"
        return FetchError("blocked_path", message)

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

    def _remote_location(self, url: str) -> str:
        location: str = self._fs.unstrip_protocol(self._remote_path(url))
        return location

    def _remote_path(self, url: str) -> str:
        path = plain_path(url)
        if path.startswith("/") or ".." in path.split("/"):
            raise FetchError("blocked_path", f"{url} leads out of {self._root}")
        return f"{self._root}/{path}"


def _read_file(path: str, status: os.stat_result, limit: int) -> bytes:
    # Opening a pipe would block until another process writes into it, and a device must not be
    # read either.
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = os.read(descriptor, min(limit, status.st_size + 1))
        if len(data) < min(limit, status.st_size):  # a large file, or one that is being cut
            with open(descriptor, "rb", closefd=False) as file:
                data += file.read(limit - len(data))
        return data
    finally:
        os.close(descriptor)


def plain_path(url: str) -> str:
    """The path of a local image, which may be a file URL.

    Raises:
        FetchError: the URL is not valid.
    """
    if not url.lower().startswith("file://"):
        return url
    try:
        return unquote(urlsplit(url).path)
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
