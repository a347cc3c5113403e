"""Finds the files that a source's path names: one file, a folder of images, or a glob."""

from __future__ import annotations

import glob
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgsim_assets.catalog.formats import (
    COMPRESSIONS,
    FORMATS,
    format_of_name,
    names_list,
    suffix,
    suffix_of_format,
)
from imgsim_assets.catalog.image_listing import ImageListing, is_hidden, list_images
from imgsim_assets.catalog.locations import IMAGE_SUFFIXES
from imgsim_assets.catalog.settings import Format, SourceSettings, without_secrets
from imgsim_assets.errors import SourceError

# Where fsspec filesystems report a file's version or time, the most exact first.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "Content-MD5",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: the path in its filesystem; of a web server with its query, which may be secret.
        name: the path relative to the source's folder.
        size: in bytes.
        version: a text that changes with the content; None when the filesystem reports neither
            a version nor a time.
        modified: seconds since the epoch, 0.0 when unknown.
    """

    path: str
    name: str
    size: int
    version: str | None
    modified: float

    @property
    def label(self) -> str:
        """The name as valid text, for tables and messages: invalid characters are replaced."""
        return self.name.encode(errors="replace").decode()


@dataclass(frozen=True)
class FoundFiles:
    """What a path names.

    Attributes:
        folder: file names are relative to it.
        files: sorted by name; None when nothing is there.
        format: images for a folder; None where the files tell it.
        notices: what is said about files that are left out.
    """

    folder: str
    files: list[SourceFile] | None
    format: Format | None = None
    notices: Sequence[str] = ()


def find_files(fs: Any, path: str, settings: SourceSettings, literal_prefix: str) -> FoundFiles:
    """The folder that file names are relative to, and the files.

    Brackets and stars in the `literal_prefix` of the path are plain characters. Raises
    SourceError when a folder is declared as a list, or a glob finds lists and images.
    """
    if fs.isfile(path):
        folder = posixpath.dirname(without_secrets(path))
        return FoundFiles(folder, [_source_file(fs.info(path), folder)])
    if fs.isdir(path):
        _reject_list_format(settings)
        listing = fs.find(path, detail=True).values()
        return _images(list_images(listing, path, read_signatures=is_local(fs)), path)
    if path.lower().startswith(("http://", "https://")) and "?" in path:
        return FoundFiles(posixpath.dirname(path), None)  # its query is not a pattern
    prefix, pattern = split_literal_prefix(path, literal_prefix)
    folder = prefix + _folder_before_pattern(pattern)
    matched = fs.glob(glob.escape(prefix) + pattern, detail=True) if has_pattern(pattern) else {}
    listing = [info for info in matched.values() if info["type"] == "file" or info.get("islink")]
    matches = [info for info in listing if not is_hidden(info, folder)]
    if not matches:
        return FoundFiles(folder, None)
    found = list_images(listing, folder, read_signatures=False)
    if settings.format == "images":
        return _images(found, folder)
    # A text file among images is a note, not a list of them.
    lists = [info for info in matches if names_list(info["name"])]
    if lists and found.images and settings.format is None:
        raise SourceError(
            f"{settings.location} finds both lists and images; add 'format: images', or a pattern "
            f"that finds only one kind, such as *{suffix(lists[0]['name'])}"
        )
    if found.images and not lists:
        return _images(found, folder)
    return FoundFiles(folder, _sorted_files(matches, folder))


def _images(found: ImageListing, folder: str) -> FoundFiles:
    return FoundFiles(folder, _sorted_files(found.images, folder), "images", found.notices())


def infer_format(files: Sequence[SourceFile], path: str) -> Format | None:
    """The format that the suffixes of all files tell; None leaves it to their content.

    Raises:
        SourceError: the suffixes differ; the message names `path`.
    """
    if all(suffix(file.path) in IMAGE_SUFFIXES for file in files):
        return "images"
    if len({suffix(file.path) for file in files}) == 1:
        return format_of_name(files[0].path)
    formats = {format_of_name(file.path) for file in files}
    if len(formats) == 1 and None not in formats:
        return formats.pop()
    raise SourceError(
        f"{path} finds files of different formats; add a pattern that finds one kind, such as "
        f"*.csv, or 'format:' with one of {FORMATS}"
    )


def check_compression(file: SourceFile) -> None:
    """Raise SourceError when the package that decompresses the file is not installed."""
    from fsspec.utils import infer_compression

    kind = suffix(file.path)
    if kind in COMPRESSIONS and infer_compression(f"list{kind}") is None:
        available = ", ".join(name for name in COMPRESSIONS if infer_compression(f"list{name}"))
        raise SourceError(
            f"{without_secrets(file.path)} cannot be decompressed: install the package "
            f"'zstandard', or use one of {available}"
        )


def has_pattern(path: str) -> bool:
    """Whether a path is a glob."""
    return any(character in path for character in "*?[")


def split_literal_prefix(path: str, prefix: str) -> tuple[str, str]:
    """The prefix if the path starts with it, else nothing, and the rest of the path."""
    return (prefix, path.removeprefix(prefix)) if path.startswith(prefix) else ("", path)


def _reject_list_format(settings: SourceSettings) -> None:
    if settings.format not in (None, "images"):
        raise SourceError(
            f"{settings.location} is a folder, whose files are read as images; for lists add a "
            f"pattern: {settings.location.rstrip('/')}/*{suffix_of_format(settings.format)}"
        )


def _folder_before_pattern(path: str) -> str:
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if has_pattern(part)), len(parts))
    return "/".join(parts[:first])


def _sorted_files(listing: Iterable[Mapping[str, Any]], folder: str) -> list[SourceFile]:
    return sorted((_source_file(info, folder) for info in listing), key=lambda file: file.name)


def _source_file(info: Mapping[str, Any], folder: str) -> SourceFile:
    path = str(info["name"])
    size = int(info.get("size") or 0)
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    modified = info.get("mtime")
    return SourceFile(
        path=path,
        name=without_secrets(path).removeprefix(folder).lstrip("/"),
        size=size,
        version=f"{without_secrets(path)}:{size}:{version}" if version is not None else None,
        modified=float(modified) if isinstance(modified, int | float) else 0.0,
    )


def is_local(fs: Any) -> bool:
    """Whether an fsspec filesystem is a disk of this machine."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols
