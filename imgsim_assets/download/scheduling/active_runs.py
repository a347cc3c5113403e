"""The runs that fetch over one store at this moment, and the hosts that they fetch from.

Each run has two files in one folder of the store: its hosts, and from its fifth second on, or once
it meets others, a renewal with the runs that it has taken into account. A run that stops renewing
is gone.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.lease import is_holder_dead

FOLDER = "_downloads"
RENEW_SECONDS = 5.0
# A run that could not renew its file for this long sends no request until it has.
PAUSE_SECONDS = 12.0
STALE_SECONDS = 20.0
# Clocks of machines differ by less; a file that is older is of a run that is gone.
_ABANDONED_SECONDS = 600.0
_HOSTS, _RENEWAL = ".hosts", ".renewal"
# A run that has just left, and a file that a full disk cut short or that is otherwise damaged.
_UNREADABLE = (FileNotFoundError, ValueError, KeyError, TypeError)


@dataclass
class ActiveRun:
    """Another run: its limits and the hosts of its images.

    `is_paced` says that it limits how many requests start per second.
    """

    hosts: frozenset[str]
    max_per_host: int
    is_paced: bool
    holder: dict[str, Any]
    renewal: Entry | None = None
    renewed_at: float = field(default_factory=time.monotonic)


class ActiveRuns:
    """This run among the active ones; its methods read and write files.

    A run may use a host only once all runs that were there before it know of it. Of two runs that
    join at the same time, at least one sees the other, because both write before they look.
    """

    def __init__(
        self, files: Files, hosts: Iterable[str], max_per_host: int, *, is_paced: bool
    ) -> None:
        self._files = files
        self.hosts = frozenset(hosts)
        self._max_per_host = max_per_host
        self._is_paced = is_paced
        self.id = ""
        self.others: dict[str, ActiveRun] = {}
        self.awaited: set[str] = set()
        self._acknowledged: set[str] = set()
        self._joined_at = self._renewed_at = -math.inf
        # The thread of a canceled `poll` goes on after its task.
        self._lock = threading.Lock()
        self._has_left = False

    def join(self) -> None:
        """Add this run to the active ones, under a new id; it is not fresh before `start`."""
        with self._lock:
            self._has_left = False
            self._join()

    def _join(self) -> None:
        # The ids sort by time, so that the oldest run comes first.
        self.id = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        holder = {"host": socket.gethostname(), "process": os.getpid()}
        body = holder | {
            "max_per_host": self._max_per_host,
            "is_paced": self._is_paced,
            "hosts": sorted(self.hosts),
        }
        self._acknowledged = set()
        self._joined_at, self._renewed_at = time.monotonic(), -math.inf
        self._files.write(f"{FOLDER}/{self.id}{_HOSTS}", json.dumps(body).encode())
        self.others = {}
        self._poll()
        self.awaited = set(self.others)
        self._remove_abandoned()

    def start(self) -> None:
        """Count as renewed since `join`, once the caller has looked at the other runs."""
        self._renewed_at = self._joined_at

    def leave(self) -> None:
        """Remove this run; nothing brings it back, also no `poll` that another thread has begun."""
        with self._lock:
            self._has_left = True
            self._remove_files(self.id)

    @property
    def is_fresh(self) -> bool:
        """Whether the other runs count this one, because it has renewed its file."""
        return time.monotonic() - self._renewed_at < PAUSE_SECONDS

    @property
    def is_renewal_due(self) -> bool:
        """Whether the file has to be renewed, also to acknowledge other runs."""
        age = time.monotonic() - self._renewed_at
        return age >= RENEW_SECONDS or not set(self.others) <= self._acknowledged

    def renew(self, *, acknowledge: bool = True) -> None:
        """Show that this run lives, and which runs it takes into account."""
        with self._lock:
            if self._has_left:
                return
            if acknowledge:
                self._acknowledged = set(self.others)
            started = time.monotonic()
            body = json.dumps(sorted(self._acknowledged)).encode()
            self._files.write(f"{FOLDER}/{self.id}{_RENEWAL}", body)
            self._renewed_at = started

    def poll(self) -> bool:
        """Look for runs that came and went; returns whether there are any.

        If others took this run for gone, it joins again.
        """
        with self._lock:
            return not self._has_left and self._poll()

    def _poll(self) -> bool:
        entries = {entry.name: entry for entry in self._files.entries(FOLDER)}
        if self.id + _HOSTS not in entries:
            self._join()
            return True
        found = {name.removesuffix(_HOSTS) for name in entries if name.endswith(_HOSTS)}
        found.discard(self.id)
        before = (set(self.others), set(self.awaited))
        for run in found - set(self.others):
            self._add(run)
        for run in list(self.others):
            if run not in found:
                del self.others[run]
            elif _is_gone(self.others[run], entries.get(run + _RENEWAL, entries[run + _HOSTS])):
                del self.others[run]
                self._remove_files(run)
        self.awaited &= set(self.others)
        self.awaited -= {run for run in self.awaited if self._has_acknowledged(run)}
        return before != (set(self.others), self.awaited)

    def _add(self, run: str) -> None:
        try:
            body = json.loads(self._files.read(f"{FOLDER}/{run}{_HOSTS}"))
            other = ActiveRun(
                frozenset(body["hosts"]), body["max_per_host"], body["is_paced"], body
            )
        except _UNREADABLE:
            return
        self.others[run] = other

    def _remove_files(self, run: str) -> None:
        for suffix in (_HOSTS, _RENEWAL):
            self._files.delete(f"{FOLDER}/{run}{suffix}")

    def _remove_abandoned(self) -> None:
        """Remove what runs have left that were killed while they joined or left."""
        entries = {entry.name: entry for entry in self._files.entries(FOLDER)}
        alone = [
            entry
            for name, entry in entries.items()
            if name.endswith(_RENEWAL) and name.removesuffix(_RENEWAL) + _HOSTS not in entries
        ]
        for entry in [*alone, *self._files.temporary_entries(FOLDER)]:
            if time.time() - entry.modified > _ABANDONED_SECONDS:
                self._files.delete(f"{FOLDER}/{entry.name}")

    def _has_acknowledged(self, run: str) -> bool:
        try:
            return self.id in json.loads(self._files.read(f"{FOLDER}/{run}{_RENEWAL}"))
        except _UNREADABLE:
            return False


def _is_gone(other: ActiveRun, renewal: Entry) -> bool:
    now = time.monotonic()
    if renewal != other.renewal:
        is_old = time.time() - renewal.modified > _ABANDONED_SECONDS
        other.renewal, other.renewed_at = renewal, -math.inf if is_old else now
    return now - other.renewed_at > STALE_SECONDS or is_holder_dead(other.holder)
