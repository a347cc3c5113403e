"""Images that a row names by a URL of an object store or another fsspec filesystem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.settings import ImageBytes
from imgsim_assets.download.status import FetchError
from imgsim_assets.storage.references import object_version


class RemoteObjects:
    """Reads objects whose URL starts with an allowed prefix, and no others.

    Each of the `prefixes` ends with a slash, such as `s3://bucket/folder/`. `image_bytes` says
    whether the store copies the images, which is the default, or refers to them.
    """

    def __init__(
        self, prefixes: Iterable[str], max_bytes: int, image_bytes: ImageBytes | None = None
    ) -> None:
        self._is_referenced = image_bytes == "reference"
        self._prefixes = tuple(prefixes)
        self._max_bytes = max_bytes

    def location(self, url: str) -> str | None:
        """Where the store finds an image that it refers to; None if it is to copy the image."""
        return url if self._is_referenced and "://" in url else None

    def read(self, url: str, cached: Validators | None = None) -> Fetched:
        """The object's bytes, or None while it is the cached version, with its version as etag.

        Raises:
            FetchError: for every failure; connection_error for unknown errors of the filesystem.
        """
        self._check_allowed(url)
        try:
            return self._read(url, cached)
        except FetchError:
            raise
        except FileNotFoundError:
            raise FetchError("missing_file", f"there is no file {url!r}") from None
        except PermissionError as error:
            raise FetchError("unreadable_file", str(error)) from error
        except Exception as error:  # every filesystem has errors of its own library
            raise FetchError("connection_error", f"{type(error).__name__}: {error}") from error

    def _check_allowed(self, url: str) -> None:
        if not url.startswith(self._prefixes) or ".." in url.split("/") or "::" in url:
            path = url.split("?", 1)[0][:200]
            raise FetchError(
                "blocked_path", f"{path} is not below any entry of download.allowed_url_prefixes"
            )

    def _read(self, url: str, cached: Validators | None) -> Fetched:
        import fsspec

        fs: Any
        fs, path = fsspec.core.url_to_fs(url)
        info = fs.info(path)
        if info.get("type") == "directory":
            raise FileNotFoundError(path)
        version = object_version(info)
        if cached is not None and cached.etag == version:
            return Fetched(None, version)
        if (info.get("size") or 0) > self._max_bytes:
            raise FetchError("too_large", f"{info['size']} bytes", etag=version)
        with fs.open(path, "rb") as file:
            data: bytes = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes", etag=version)
        if not data:
            raise FetchError("truncated_body", "the object is empty", etag=version)
        return Fetched(data, etag=version, location=self.location(url))
