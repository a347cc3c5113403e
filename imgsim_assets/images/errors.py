"""The error of bytes that are not a usable image."""

from __future__ import annotations


class ImageError(Exception):
    """Why bytes are not a usable image.

    Attributes:
        status: as tables record it.
        detail: the reason, for people.
    """

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def too_complex(detail: str) -> ImageError:
    """The error for a file whose decoding would take far more work than its pixels."""
    return ImageError("too_complex", detail)


def cut_header(name: str) -> ImageError:
    """The error for a file that ends before its pixels begin."""
    return ImageError("truncated", f"a {name} file that is cut in its header")
