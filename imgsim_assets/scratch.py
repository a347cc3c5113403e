"""Folders for temporary files on the local disk, in the folder that TMPDIR names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PREFIX = "imgsim-scratch-"
# A new folder is not locked at once.
_ABANDONED_AFTER_S = 3600


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, which is deleted at the end.

    The first one of a process also deletes what killed processes have left.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(folder)
    finally:
        shutil.rmtree(folder)
        os.close(lock)


@cache
def remove_abandoned(parent: Path) -> None:
    """Delete the folders that no process holds any more."""
    newest = time.time() - _ABANDONED_AFTER_S
    for folder in parent.glob(f"{_PREFIX}*"):
        # Folders of other users cannot be opened, and another process may be faster.
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < newest and not _is_locked(folder):
                shutil.rmtree(folder)


def _is_locked(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
