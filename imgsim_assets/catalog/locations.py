"""What the cells of an image column look like: URLs, paths of image files, data URIs."""

from __future__ import annotations

import re

# Regular expressions that Python and Polars share.
_IMAGE_FORMATS = "avif bmp gif heic heif jfif jp2 jpe jpeg jpg png tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGE_FORMATS.split())
# Of URLs that can be fetched; the download settings decide which object stores may be read.
SCHEMES = ("http", "https", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
# An image stored with the list itself: the sha256 of its bytes.
EMBEDDED = "sha256:"
URL = r"(?i)^\s*(?:[a-z][a-z0-9+.-]*://\S|//[a-z0-9\[]|data:[a-z]|sha256:[0-9a-f]{64}$)"
IMAGE_FILE = rf"(?i)\.(?:{_IMAGE_FORMATS.replace(' ', '|')})\s*(?:[?#]\S*)?$"
# JSON, or a Python list, in a cell.
JSON_CELL = r"""^\s*(?:\[\s*(?:["'{\[\]]|null|None|\S*://)|\{\s*["'}])"""
# URLs one after the other, or image files with a separator between them, in one cell.
_FILE = rf"\.(?:{_IMAGE_FORMATS.replace(' ', '|')})"
SEVERAL = rf"(?i)\S[,;|\s]+(?:{'|'.join(SCHEMES)})://|^[^:]+{_FILE}\s*[,;|\n][^:]*{_FILE}[,;|\s]*$"
_IS_URL, _IS_IMAGE_FILE = re.compile(URL), re.compile(IMAGE_FILE)


def is_location(cell: str) -> bool:
    """Whether a cell is a URL or the path of an image file."""
    return _IS_URL.search(cell) is not None or _IS_IMAGE_FILE.search(cell) is not None
