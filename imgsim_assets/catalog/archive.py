"""Opens a list that is compressed, or that is the only one in an archive."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from imgsim_assets.catalog.text import buffered_reader
from imgsim_assets.errors import SourceError

_DECOMPRESSORS: Sequence[tuple[bytes, Any]] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
_ZIP = b"PK\x03\x04"
_TAR, _TAR_AT = b"ustar", 257
# Members by which a zip is a workbook.
_WORKBOOK_MEMBERS = ("xl/", "content.xml")
_SPOOL_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class OpenedList:
    """A list's bytes, and the name whose suffix tells its format."""

    stream: IO[bytes]
    name: str


@contextlib.contextmanager
def open_list(raw: IO[bytes], name: str) -> Iterator[OpenedList]:
    """The list behind compression and archives, which the first bytes show.

    Raises:
        SourceError: an archive holds no list or several.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(buffered_reader(raw))
        for mark, decompress in _DECOMPRESSORS:
            if stream.peek(6).startswith(mark):
                stream = buffered_reader(stack.enter_context(decompress(stream)))
                name = posixpath.splitext(name)[0]
                break
        head = stream.peek(_TAR_AT + len(_TAR))
        if head.startswith(_ZIP):
            yield _zip_member(stack, _seekable(stack, stream), name)
        elif head[_TAR_AT:].startswith(_TAR):
            yield _tar_member(stack, _seekable(stack, stream), name)
        else:
            yield OpenedList(stream, name)


def _zip_member(stack: contextlib.ExitStack, stream: IO[bytes], name: str) -> OpenedList:
    try:
        archive = stack.enter_context(zipfile.ZipFile(stream))
    except zipfile.BadZipFile as error:
        raise SourceError(f"{name} is a damaged zip: {error}") from error
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if any(each.startswith(_WORKBOOK_MEMBERS) for each in names):
        stream.seek(0)
        return OpenedList(stream, name)
    member = _only_list(names, name)
    try:
        return OpenedList(stack.enter_context(archive.open(member)), member)
    except (RuntimeError, NotImplementedError) as error:  # a password, or another compression
        raise SourceError(f"{name}: {member} cannot be unpacked: {error}") from error


def _tar_member(stack: contextlib.ExitStack, stream: IO[bytes], name: str) -> OpenedList:
    try:
        archive = stack.enter_context(tarfile.TarFile.open(fileobj=stream))
        members = {each.name: each for each in archive.getmembers() if each.isfile()}
    except tarfile.TarError as error:
        raise SourceError(f"{name} is a damaged tar: {error}") from error
    member = _only_list(list(members), name)
    opened = archive.extractfile(members[member])
    if opened is None:
        raise AssertionError("a file of a tar can be opened")
    return OpenedList(stack.enter_context(opened), member)


def _only_list(names: Sequence[str], archive: str) -> str:
    """The only member that no operating system has added."""
    members = [
        name
        for name in names
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        and posixpath.basename(name).lower() not in ("thumbs.db", "desktop.ini")
    ]
    if len(members) == 1:
        return members[0]
    listed = ", ".join(members[:5]) + (", ..." if len(members) > 5 else "")
    raise SourceError(
        f"{archive} holds {len(members)} files ({listed}); pack a single list, or unpack it and "
        "name the list"
        if members
        else f"{archive} holds no file; pack a list into it"
    )


def _seekable(stack: contextlib.ExitStack, stream: IO[bytes]) -> IO[bytes]:
    """The stream, or a copy of one that can only be read forward, such as a web server's."""
    if stream.seekable():
        return stream
    copy: Any = stack.enter_context(tempfile.SpooledTemporaryFile(_SPOOL_BYTES))  # noqa: SIM115
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy  # type: ignore[no-any-return]
