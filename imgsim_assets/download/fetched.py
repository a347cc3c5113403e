"""What every source of images returns: bytes, and the validators of their version."""

from __future__ import annotations

from typing import NamedTuple

# Longer ones are no use, and would be stored with every item.
_MAX_VALIDATOR = 1024


class Validators(NamedTuple):
    """What identifies the version of an image, as in RFC 9110, 8.8.

    Files and objects have no headers; their `etag` is a file version such as size and time.
    """

    etag: str | None
    last_modified: str | None

    @property
    def request_headers(self) -> dict[str, str]:
        """The headers of a request that answers 304 while this version is the newest."""
        headers = {
            "If-None-Match": usable_validator(self.etag),
            "If-Modified-Since": usable_validator(self.last_modified),
        }
        return {name: value for name, value in headers.items() if value}


def usable_validator(value: str | None) -> str | None:
    """A server's ETag or Last-Modified, if a request can return it; None for any other text."""
    if value and len(value) <= _MAX_VALIDATOR and value.isascii() and value.isprintable():
        return value
    return None


class Fetched(NamedTuple):
    """An image's bytes, or None when the cached version is the newest, and their validators.

    `location` is where the image stays, if the store is to refer to it; None for a copy.
    `is_link` says whether the path is a symbolic link; None for anything but a local file.
    """

    data: bytes | None
    etag: str | None = None
    last_modified: str | None = None
    location: str | None = None
    is_link: bool | None = None
