"""The error of bytes that are not a usable image."""

from __future__ import annotations

from imgsim_assets.text import printable_line


class ImageError(Exception):
    """Why bytes are not a usable image.

    Attributes:
        status: as tables record it.
        detail: the reason, for people.
    """

    def __init__(self, status: str, detail: str) -> None:
        self.status = status
        self.detail = printable_line(detail)
        super().__init__(f"{status}: {self.detail}")


def too_complex(detail: str) -> ImageError:
    """The error for a file whose decoding would take far more work than its pixels."""
    return ImageError("too_complex", detail)


def cut_header(name: str) -> ImageError:
    """The error for a file that ends before its pixels begin."""
    return ImageError("truncated", f"a {name} file that is cut in its header")
