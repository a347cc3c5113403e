"""A catalog's source: its files and the fingerprint of their content."""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imgsim_assets.catalog.settings import Format, SourceSettings
from imgsim_assets.catalog.source_files import (
    SourceFile,
    check_compression,
    find_files,
    has_pattern,
    infer_format,
    split_literal_prefix,
)
from imgsim_assets.errors import SourceError

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
        format: how its files are read.
        files: sorted by name; none only in a folder without images.
        root: the folder or URL that relative image paths start from.
        fs: the fsspec filesystem of the files.
    """

    settings: SourceSettings
    format: Format
    files: tuple[SourceFile, ...]
    root: str
    fs: Any

    @property
    def location(self) -> str:
        """The path as declared, for messages."""
        return self.settings.path

    def fingerprint(self, known_hashes: Mapping[str, str] | None = None) -> Fingerprint:
        """The fingerprint of the source's current content.

        It covers the content of local files, the etag (or time) and size of remote files, and
        the listing of a folder of images. Remote files without a version are read.

        Args:
            known_hashes: the hashes of an earlier fingerprint; a file whose size and time have
                not changed since is not read again.
        """
        hashes: dict[str, str] = {}
        parts = []
        for file in self.files:
            if self.format == "images" or (not _is_local(self.fs) and file.version is not None):
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

    def open(self, file: SourceFile) -> AbstractContextManager[IO[bytes]]:
        """Open one of the files for reading, decompressed by its suffix."""
        opened: AbstractContextManager[IO[bytes]] = self.fs.open(
            file.path, "rb", compression="infer"
        )
        return opened

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

    location = _absolute(settings.path, project_root)
    try:
        fs, path = fsspec.core.url_to_fs(location)
        folder, files = find_files(fs, path, settings, str(project_root) if _is_local(fs) else "")
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{settings.path} cannot be reached: {error}") from error
    if files is None:
        raise _not_found(settings, location, project_root)
    source_format = settings.format or infer_format(files, settings.path)
    for file in files:
        check_compression(file)
    root = _absolute(settings.root, project_root) if settings.root else fs.unstrip_protocol(folder)
    return Source(settings, source_format, tuple(files), root.removeprefix("file://"), fs)


def check_source_exists(settings: SourceSettings, project_root: Path) -> None:
    """Check that a local source exists, without listing it; remote sources always pass.

    Raises:
        SourceError: the same as `open_source`.
    """
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
    return SourceError(
        f"there is no {location} (path {settings.path!r}); give the path of a file, a folder "
        f"or a glob, relative to {project_root}"
    )


def _absolute(path: str, project_root: Path) -> str:
    if "://" in path:
        return path
    return str(project_root / Path(path).expanduser())


def _is_local(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols
