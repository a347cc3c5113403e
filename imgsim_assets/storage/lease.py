"""A lease: one of several runs does a piece of work, and the others wait for it.

It saves double work, and nothing depends on it: a run that was thought dead and goes on does no
harm, because results are committed put-if-absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.files import Files

# The holder renews its lease this often; one that has not been for longer is free.
RENEW_SECONDS = 5.0
STALE_SECONDS = 20.0
_LOOK_SECONDS = 0.5


class Lease:
    """Held from entering the context to leaving it, under a path that names the work."""

    def __init__(self, files: Files, path: str, *, what: str, log: Log = silent) -> None:
        self._files = files
        self._path = path
        self._what = what
        self._log = log
        holder = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        self._body = json.dumps(holder).encode()
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Wait until nobody else holds the lease, and take it."""
        has_told = False
        while not self._taken():
            if not has_told:
                self._log(f"{self._what} is at work in another run; waiting for it")
                has_told = True
            time.sleep(_LOOK_SECONDS)
        self._renewing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._renewing.join()
        if self._read() == self._body:
            self._files.delete(self._path)

    def _taken(self) -> bool:
        with contextlib.suppress(FileExistsError):
            self._files.create(self._path, self._body)
            return True
        entry = self._files.stat(self._path)
        is_stale = entry is not None and time.time() - entry.modified > STALE_SECONDS
        if is_stale or self._holder_is_dead():
            self._files.delete(self._path)
        return False

    def _holder_is_dead(self) -> bool:
        """Whether the holder was a process of this machine that is no longer there."""
        try:
            holder = json.loads(self._read() or b"{}")
        except ValueError:  # cut short by a disk that was full; it becomes stale
            return False
        if holder.get("host") != socket.gethostname():
            return False
        try:
            os.kill(int(holder["process"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _read(self) -> bytes | None:
        try:
            return self._files.read(self._path)
        except FileNotFoundError:
            return None

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            if self._read() != self._body:
                return  # taken over, by a run that thought this one dead
            # A disk or network that fails now will tell the work itself.
            with contextlib.suppress(Exception):
                self._files.write(self._path, self._body)
