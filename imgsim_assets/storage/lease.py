"""A lease: one of several runs does a piece of work while the others wait.

It only saves duplicate work. A run that was taken for dead and continues does no harm, because
results are committed put-if-absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from imgsim_assets.errors import BusyError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.files import Entry, Files

# The holder renews its lease this often. A lease not renewed for STALE_SECONDS is free.
RENEW_SECONDS = 5.0
STALE_SECONDS = 20.0
_POLL_SECONDS = 0.5


class Lease:
    """A context manager that holds the lease of a piece of work.

    Args:
        files: The root of the store.
        path: File of the lease; one path per piece of work.
        work: Name of the work in log messages.
        log: Takes a message when another run holds the lease.
        wait: Wait for the run that holds the lease; else raise BusyError.
    """

    def __init__(
        self, files: Files, path: str, *, work: str, log: Log = silent, wait: bool = True
    ) -> None:
        self._files = files
        self._path = path
        self._work = work
        self._log = log
        self._wait = wait
        holder = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        self._body = json.dumps(holder).encode()
        self._seen: Entry | None = None
        self._seen_at = time.monotonic()
        self._released = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Acquire the lease, when nobody else holds it.

        Raises:
            BusyError: another run holds it, and this one does not wait.
        """
        has_logged = False
        while not self._try_acquire():
            # One freed just now is acquired after a pause, in which others that saw it free it too.
            if not self._free_abandoned():
                if not self._wait:
                    raise BusyError(f"another run is working on {self._work}")
                if not has_logged:
                    self._log(f"another run is working on {self._work}; waiting for it")
                    has_logged = True
            time.sleep(_POLL_SECONDS)
        self._renewal.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._renewal.join()
        if self._read() == self._body:
            self._files.delete(self._path)

    def _try_acquire(self) -> bool:
        with contextlib.suppress(FileExistsError):
            self._files.create(self._path, self._body)
            return True
        return False

    def _free_abandoned(self) -> bool:
        """Delete the lease of a holder that is dead or renews it no more; whether it was one."""
        entry = self._files.stat(self._path)
        if entry != self._seen:
            self._seen, self._seen_at = entry, time.monotonic()
        # The second condition holds for clocks of other machines, and after a clock was set back.
        is_stale = entry is not None and (
            time.time() - entry.modified > STALE_SECONDS
            or time.monotonic() - self._seen_at > STALE_SECONDS
        )
        if not is_stale and not self._is_holder_dead():
            return False
        self._files.delete(self._path)
        return True

    def _is_holder_dead(self) -> bool:
        try:
            holder = json.loads(self._read() or b"{}")
        except ValueError:  # truncated by a full disk; it becomes stale
            return False
        return isinstance(holder, dict) and is_holder_dead(holder)

    def _read(self) -> bytes | None:
        try:
            return self._files.read(self._path)
        except FileNotFoundError:
            return None

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            if self._read() != self._body:
                return  # another run took this one for dead and took the lease over
            # The work itself will report a disk or network that fails now.
            with contextlib.suppress(Exception):
                self._files.write(self._path, self._body)


def is_holder_dead(holder: Mapping[str, Any]) -> bool:
    """Whether `host` and `process` are those of a process of this machine that no longer exists."""
    process = holder.get("process")
    if holder.get("host") != socket.gethostname() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
