"""Errors whose message is written for the person who runs the pipeline."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imgsim_assets.text import printable


class ImgsimError(Exception):
    """Base of all errors of this package. The message names the location and how to fix it.

    Messages quote data of others: they are printable, and have no passwords of URLs.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class SettingsError(ImgsimError, ValueError):
    """A setting (YAML key, argument, environment variable) has an invalid value."""


class DeviceMemoryError(SettingsError):
    """A GPU has too little free memory for what it is to compute."""


class SourceError(ImgsimError):
    """A catalog source cannot be read as declared."""


class DecisionError(ImgsimError, ValueError):
    """A decision about a pair cannot be recorded as given."""


class StoreError(ImgsimError):
    """The store does not have what was requested, or cannot be used as configured."""


class FormatError(StoreError):
    """Another version of imgsim_assets, with another file format, wrote a table of the store."""


class CorruptFileError(StoreError):
    """A stored file is missing or does not match its committed checksum."""


class InvariantError(StoreError):
    """A table breaks one of its invariants, so nothing is computed from it."""


class BusyError(StoreError):
    """Another run is at work on the same shard."""


class ComputeError(ImgsimError):
    """The tasks of a step cannot be run where its settings say, or were lost too often."""


class EncoderError(ImgsimError):
    """An encoder cannot be loaded, or returned something that is not an embedding."""


_KEPT = "run it again: what was finished is kept"
_OTHER_STORE = "or choose another store (IMGSIM_STORE)"
_OTHER_FOLDER = "or choose another folder for temporary files (TMPDIR)"
# How the names of temporary files begin.
TEMPORARY = "imgsim-"
_FIXES = {
    errno.ENOSPC: f"free some space, {_OTHER_STORE}, and {_KEPT}",
    errno.EDQUOT: f"free some space, {_OTHER_STORE}, and {_KEPT}",
    errno.EFBIG: f"raise the file size limit (ulimit -f), {_OTHER_STORE}, and {_KEPT}",
    errno.EROFS: f"mount the disk writable, {_OTHER_STORE}, and {_KEPT}",
    errno.EACCES: f"give this user access to it, {_OTHER_STORE}, and {_KEPT}",
    errno.EPERM: f"give this user access to it, {_OTHER_STORE}, and {_KEPT}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n), and {_KEPT}",
    errno.EIO: f"check the disk (dmesg), and {_KEPT}",
}
# Modules of clients of object stores, whose errors of connections are no OSError.
_CLIENTS = ("aiohttp", "botocore")
# The end of a message of Polars about an error of the operating system.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def describe_error(error: BaseException) -> str | None:
    """The message of an error for a person: one line with the fix.

    Args:
        error: Of this package, of the operating system or of a connection.

    Returns:
        The message; None for any other error, which is a fault of the code.
    """
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return describe_error(error.exceptions[0])
    if isinstance(error, ImgsimError):
        return str(error)
    library = type(error).__module__.partition(".")[0]
    # Polars raises its own errors, or an OSError without a number.
    if code := _OS_ERROR.search(str(error)) if library in ("builtins", "polars") else None:
        return describe_error(OSError(int(code[1]), os.strerror(int(code[1]))))
    if isinstance(error, OSError):
        fix = _FIXES.get(error.errno or 0, _KEPT)
        if _is_temporary(error):
            fix = fix.replace(_OTHER_STORE, _OTHER_FOLDER)
        return f"{_cause(error)}; {fix}"
    if library in _CLIENTS:
        return f"{' '.join(str(error).split())}; check the connection, and {_KEPT}"
    return None


@contextlib.contextmanager
def errors_about(path: str | Path) -> Iterator[None]:
    """Let an OSError that names no file, such as that of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def in_home(path: str | Path) -> Path:
    """A local path whose `~` or `~user` is the home folder.

    Raises:
        SettingsError: There is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        raise SettingsError(
            f"{path}: nothing says where {home} is; write the whole path, or ./{home} for a "
            "folder of that name"
        ) from None


def _is_temporary(error: OSError) -> bool:
    """Whether an error is about a temporary file of this package."""
    beginning = str(Path(tempfile.gettempdir()) / TEMPORARY)
    return str(error.filename).startswith(beginning)


def _cause(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    cause = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{cause}: {' and '.join(names)}" if names else cause


def one_line(error: Exception) -> str:
    """The type and the first line of an error, for a message."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:200]}"
