"""A catalog's source: its files and the fingerprint of their content."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsim_assets.catalog.archive import OpenedList, open_list
from imgsim_assets.catalog.formats import suffix
from imgsim_assets.catalog.query import run_query
from imgsim_assets.catalog.settings import Format, SourceSettings, without_secrets
from imgsim_assets.catalog.source_files import (
    SourceFile,
    check_compression,
    find_files,
    has_pattern,
    infer_format,
    is_local,
    split_literal_prefix,
)
from imgsim_assets.errors import SourceError, in_home

if TYPE_CHECKING:
    import polars as pl

# A file that was modified this recently may change again under the same modification time.
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Fingerprint:
    """A sha256 (hex) of a source's content, and the sha256 of each file by file version."""

    digest: str
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A source whose files were found.

    Attributes:
        settings: the source as declared.
        format: how its files are read; None if the content of each file tells it.
        files: sorted by name; none in a folder without images, and of a query.
        root: the folder or URL that relative image paths start from.
        fs: the fsspec filesystem of the files; None of a query.
        notices: what is said about files that are left out.
    """

    settings: SourceSettings
    format: Format | None
    files: tuple[SourceFile, ...]
    root: str
    fs: Any
    notices: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """The source as declared, for messages."""
        return self.settings.location

    def fingerprint(self, known_hashes: Mapping[str, str] | None = None) -> Fingerprint:
        """The fingerprint of the source's current content.

        It covers the content of local files, the etag (or time) and size of remote files, and
        the listing of a folder of images. Remote files without a version are read, and a query
        is run.

        Args:
            known_hashes: the hashes of an earlier fingerprint; a file whose size and time have
                not changed since is not read again.
        """
        if self.settings.sql is not None:
            written = io.BytesIO()
            self.query_rows.write_ipc(written)
            return Fingerprint(hashlib.sha256(written.getvalue()).hexdigest(), {})
        hashes: dict[str, str] = {}
        parts = []
        for file in self.files:
            if not self._is_hashed(file):
                parts.append(f"{file.name}\n{file.size}\n{file.version}")
                continue
            content = (known_hashes or {}).get(file.version or "")
            if content is None:
                content = self._content_hash(file)
            if file.version is not None and time.time() - file.modified > _SETTLE_SECONDS:
                hashes[file.version] = content
            parts.append(f"{file.name}\n{content}")
        content_list = "\n".join(parts).encode(errors="surrogateescape")
        return Fingerprint(hashlib.sha256(content_list).hexdigest(), hashes)

    def must_read(self, known_hashes: Mapping[str, str] | None = None) -> bool:
        """Whether `fingerprint` would read the content of a file, or run the query."""
        if self.settings.sql is not None:
            return True
        known = known_hashes or {}
        return any(
            self._is_hashed(file) and (file.version or "") not in known for file in self.files
        )

    def _is_hashed(self, file: SourceFile) -> bool:
        """Whether a file's content counts; the size and version of the others do."""
        has_version = not is_local(self.fs) and file.version is not None
        return self.format != "images" and not has_version

    @functools.cached_property
    def query_rows(self) -> pl.DataFrame:
        """The rows of the query, which runs once."""
        return run_query(self.settings)

    @contextlib.contextmanager
    def open(self, file: SourceFile) -> Iterator[OpenedList]:
        """Open one of the files for reading, without its compression or archive."""
        compression = "zstd" if suffix(file.path) == ".zst" else None
        with (
            self.fs.open(file.path, "rb", compression=compression) as raw,
            open_list(raw, without_secrets(file.path)) as opened,
        ):
            yield opened

    def _content_hash(self, file: SourceFile) -> str:
        with self.fs.open(file.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def open_source(settings: SourceSettings, project_root: Path) -> Source:
    """Find the files of a declared source; relative paths start from the project's root.

    Raises:
        SourceError: when nothing is there, the format is unclear, or a file's compression is
            not supported.
    """
    import fsspec

    if settings.path is None:
        return Source(settings, None, (), _root(settings, str(project_root), project_root), None)
    location = _absolute(settings.path, project_root)
    try:
        fs, path = fsspec.core.url_to_fs(location)
        found = find_files(fs, path, settings, str(project_root) if is_local(fs) else "")
    except (ImportError, ValueError, OSError) as error:
        message = settings.masked(f"{settings.path} cannot be reached: {error}")
        raise SourceError(message) from error
    if found.files is None:
        raise _not_found(settings, location, project_root)
    for file in found.files:
        check_compression(file)
    source_format = settings.format or found.format or infer_format(found.files, settings.location)
    root = _root(settings, fs.unstrip_protocol(found.folder), project_root)
    return Source(settings, source_format, tuple(found.files), root, fs, tuple(found.notices))


def _root(settings: SourceSettings, folder: str, project_root: Path) -> str:
    """Where relative image paths start: the declared root, else the folder of the source."""
    root = _absolute(settings.root, project_root) if settings.root else folder
    return root.removeprefix("file://")


def check_source_exists(settings: SourceSettings, project_root: Path) -> None:
    """Check that a local source exists, without listing it; remote sources always pass.

    Raises:
        SourceError: the same as `open_source`.
    """
    if settings.path is None:
        return
    location = _absolute(settings.path, project_root)
    if "://" in location or Path(location).exists():
        return
    prefix, pattern = split_literal_prefix(location, str(project_root))
    if has_pattern(pattern) and any(
        True for _ in glob.iglob(glob.escape(prefix) + pattern, recursive=True)
    ):
        return
    raise _not_found(settings, location, project_root)


def _not_found(settings: SourceSettings, location: str, project_root: Path) -> SourceError:
    shown = without_secrets(location)
    if "://" in location:
        return SourceError(f"there is no {shown!r}; give the URL of a file, a folder or a glob")
    return SourceError(
        f"there is no {shown!r} (path {settings.location!r}); give the path of a file, a folder or "
        f"a glob, relative to {project_root}"
    )


def _absolute(path: str, project_root: Path) -> str:
    if "://" in path:
        return path
    return str(project_root / in_home(path))
