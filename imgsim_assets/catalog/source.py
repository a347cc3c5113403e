"""Where a catalog comes from: the declared source, its files and their fingerprint."""

from __future__ import annotations

import glob
import hashlib
import posixpath
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from imgsim_assets.catalog.settings import Format, SourceSettings
from imgsim_assets.errors import SourceError

_FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_NO_LIST = (None, "lines")
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_SETTLED_SECONDS = 2.0
# What the filesystems of fsspec call a file's version or time, the best first.
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
_IMAGE_FORMATS = "avif bmp gif heic heif jfif jp2 jpe jpeg jpg png tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGE_FORMATS.split())


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    `path` is what its filesystem calls it. `stamp` changes with its content, None when the
    filesystem tells neither a version nor a time.
    """

    path: str
    name: str
    size: int
    stamp: str | None
    modified: float

    @property
    def label(self) -> str:
        """The name as tables and messages can hold it: what is no text in it is replaced."""
        return self.name.encode(errors="replace").decode()


@dataclass(frozen=True)
class Fingerprint:
    """A source's content as a hex sha256, with the file hashes it was made from by stamp."""

    digest: str
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A declared source with its files found: sorted by path, none only in a folder of images."""

    settings: SourceSettings
    format: Format
    files: tuple[SourceFile, ...]
    root: str
    fs: Any

    @property
    def location(self) -> str:
        """The source as messages name it."""
        return self.settings.path

    def fingerprint(self, known: Mapping[str, str] | None = None) -> Fingerprint:
        """What the source holds now.

        Local files count by content, remote ones by etag (or time) and size, a folder of
        images by its listing; what a server gives no version of is read. `known` are the
        hashes of an earlier fingerprint: a file whose size and time have not changed since is
        not read again.
        """
        hashes: dict[str, str] = {}
        parts = []
        for file in self.files:
            if self.format == "images" or (not self._is_local and file.stamp is not None):
                parts.append(f"{file.name}\n{file.size}\n{file.stamp}")
                continue
            content = (known or {}).get(file.stamp or "")
            if content is None:
                content = self._content_hash(file)
            # A file written a moment ago may be written again without its time changing.
            if file.stamp is not None and time.time() - file.modified > _SETTLED_SECONDS:
                hashes[file.stamp] = content
            parts.append(f"{file.name}\n{content}")
        listed = "\n".join(parts).encode(errors="surrogateescape")
        return Fingerprint(hashlib.sha256(listed).hexdigest(), hashes)

    def open(self, file: SourceFile) -> AbstractContextManager[IO[bytes]]:
        """One of the files for reading, decompressed by its suffix."""
        opened: AbstractContextManager[IO[bytes]] = self.fs.open(
            file.path, "rb", compression="infer"
        )
        return opened

    @property
    def _is_local(self) -> bool:
        return _is_local(self.fs)

    def _content_hash(self, file: SourceFile) -> str:
        with self.fs.open(file.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def open_source(settings: SourceSettings, project_root: Path) -> Source:
    """Find a declared source's files.

    Raises SourceError, with the path as it was looked for, when there is nothing.
    """
    import fsspec

    location = _absolute(settings.path, project_root)
    try:
        fs, path = fsspec.core.url_to_fs(location)
        base, files = _find(fs, path, settings, str(project_root) if _is_local(fs) else "")
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{settings.path} cannot be reached: {error}") from error
    if files is None:
        raise SourceError(_not_found(settings, location, project_root))
    found = settings.format or _format_of(files, settings.path)
    for file in files:
        _check_compression(file)
    root = _absolute(settings.root, project_root) if settings.root else fs.unstrip_protocol(base)
    return Source(settings, found, tuple(files), root.removeprefix("file://"), fs)


def _check_compression(file: SourceFile) -> None:
    from fsspec.utils import infer_compression

    if _suffix(file.path) in _COMPRESSIONS and infer_compression(file.path) is None:
        known = ", ".join(name for name in _COMPRESSIONS if infer_compression(f"list{name}"))
        raise SourceError(
            f"{file.path} cannot be decompressed here: install the package 'zstandard', or use "
            f"one of {known}"
        )


def check_source_exists(settings: SourceSettings, project_root: Path) -> None:
    """Raise the SourceError of `open_source` for a local source that is not there.

    Looks no further than it must: nothing is listed, and remote sources are taken on trust.
    """
    location = _absolute(settings.path, project_root)
    if "://" in location:
        return
    literal, rest = _without_literal(location, str(project_root))
    matches = glob.iglob(glob.escape(literal) + rest, recursive=True) if _has_pattern(rest) else ()
    if not Path(location).exists() and not any(True for _ in matches):
        raise SourceError(_not_found(settings, location, project_root))


def _not_found(settings: SourceSettings, location: str, project_root: Path) -> str:
    return (
        f"there is no {location} (path {settings.path!r}); give the path of a file, a folder "
        f"or a glob, relative to {project_root}"
    )


def _has_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _absolute(path: str, project_root: Path) -> str:
    if "://" in path:
        return path
    return str(project_root / Path(path).expanduser())


def _find(
    fs: Any, path: str, settings: SourceSettings, literal: str
) -> tuple[str, list[SourceFile] | None]:
    """The folder that names are relative to, and the files; None when nothing is there.

    `literal` is a beginning of the path in which brackets and stars are only letters.
    """
    if fs.isfile(path):
        return posixpath.dirname(path), [_source_file(fs.info(path), posixpath.dirname(path))]
    if fs.isdir(path):
        _refuse_lists_in_folder(settings)
        return path, _images(fs.find(path, detail=True).values(), path)
    literal, rest = _without_literal(path, literal)
    base = literal + _folder_before_pattern(rest)
    listed = fs.glob(glob.escape(literal) + rest, detail=True) if _has_pattern(rest) else {}
    matches = [
        info for info in listed.values() if info["type"] == "file" and not _is_hidden(info, base)
    ]
    if not matches:
        return base, None
    images = _images(matches, base)
    if settings.format == "images":
        return base, images
    # A text file among images is a note, not a list of them.
    lists = [info for info in matches if _format_by_suffix(str(info["name"])) not in _NO_LIST]
    if lists and images and settings.format is None:
        raise SourceError(
            f"{settings.path} finds both lists and images; add 'format: images', or a pattern "
            f"that finds only one kind, such as *{_suffix(str(lists[0]['name']))}"
        )
    return base, images if images and not lists else _sorted_files(matches, base)


def _refuse_lists_in_folder(settings: SourceSettings) -> None:
    """A folder means its images, which no list's format can read."""
    if settings.format not in (None, "images"):
        suffix = next(suffix for suffix, name in _FORMATS.items() if name == settings.format)
        raise SourceError(
            f"{settings.path} is a folder, whose files are read as images; for lists add a "
            f"pattern: {settings.path.rstrip('/')}/*{suffix}"
        )


def _without_literal(path: str, literal: str) -> tuple[str, str]:
    """The beginning of a path if it is that literal one, else nothing, and the rest."""
    return (literal, path.removeprefix(literal)) if path.startswith(literal) else ("", path)


def _images(listed: Iterable[Mapping[str, Any]], base: str) -> list[SourceFile]:
    found = [
        info
        for info in listed
        if _suffix(str(info["name"])) in IMAGE_SUFFIXES and not _is_hidden(info, base)
    ]
    return _sorted_files(found, base)


def _is_hidden(info: Mapping[str, Any], base: str) -> bool:
    """Whether a file or a folder it lies in, below the base, has a name that starts with a dot.

    So do those that systems leave behind: thumbnails, what was thrown away, resource forks.
    """
    below = str(info["name"]).removeprefix(base)
    return any(part.startswith(".") for part in below.split("/"))


def _folder_before_pattern(path: str) -> str:
    parts = path.split("/")
    plain = next(
        (count for count, part in enumerate(parts) if _has_pattern(part)),
        len(parts),
    )
    return "/".join(parts[:plain])


def _sorted_files(listed: Iterable[Mapping[str, Any]], base: str) -> list[SourceFile]:
    return sorted((_source_file(info, base) for info in listed), key=lambda file: file.name)


def _source_file(info: Mapping[str, Any], base: str) -> SourceFile:
    path = str(info["name"])
    size = int(info.get("size") or 0)
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    modified = info.get("mtime")
    return SourceFile(
        path=path,
        name=path.removeprefix(base).lstrip("/"),
        size=size,
        stamp=f"{path}:{size}:{version}" if version is not None else None,
        modified=float(modified) if isinstance(modified, int | float) else 0.0,
    )


def _is_local(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols


def _suffix(path: str) -> str:
    return posixpath.splitext(path.lower())[1]


def _format_by_suffix(path: str) -> Format | None:
    stem, suffix = posixpath.splitext(path.lower())
    return _FORMATS.get(_suffix(stem) if suffix in _COMPRESSIONS else suffix)


def _format_of(files: Sequence[SourceFile], path: str) -> Format:
    if all(_suffix(file.path) in IMAGE_SUFFIXES for file in files):
        return "images"
    formats = {_format_by_suffix(file.path) for file in files}
    if len(formats) != 1 or None in formats:
        raise SourceError(
            f"{path}: the suffix does not tell what it is; add 'format:' with one of csv, tsv, "
            "lines, jsonl, parquet, images"
        )
    return cast("Format", formats.pop())
