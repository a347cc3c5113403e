"""Files that writers wait to append, so that one of them commits the files of all.

    <table>/_waiting/<uuid>.json   the files of one writer that has lost a race

The writer of the oldest entry commits the files of all, and removes their entries afterwards. Every
writer removes its own. If the oldest entry stays, because its writer was killed, the others commit
it. An entry of long ago is removed.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.sealed_json import is_sealed, seal

WAITING = "_waiting"
# Far below the minimum age of garbage collection, which may delete the files of an older entry.
_MAX_AGE_S = 600.0
# An object store answers many requests at once.
_THREADS = 8


class WaitingFiles:
    """The entries of one table.

    Args:
        files: The root that holds the table's folder.
        table: Name of the table.
    """

    def __init__(self, files: Files, table: str) -> None:
        self._files = files
        self._folder = f"{table}/{WAITING}"

    def announce(self, added: Sequence[DataFile]) -> str:
        """Add an entry; returns its name."""
        name = f"{uuid.uuid4().hex}.json"
        document = {"files": [vars(file) for file in added]}
        self._files.write(f"{self._folder}/{name}", seal(document))
        return name

    def queue(self, own: str) -> list[str]:
        """The names of all entries, the oldest first; empty if another writer committed the own."""
        entries = self._files.entries(self._folder)
        modified = {entry.name: entry.modified for entry in entries}
        if own not in modified:
            return []
        # Both times are those of the store's clock.
        oldest = modified[own] - _MAX_AGE_S
        self.remove(name for name, time in modified.items() if time < oldest)
        recent = [name for name, time in modified.items() if time >= oldest]
        return sorted(recent, key=lambda name: (modified[name], name))

    def read(self, names: Sequence[str]) -> list[DataFile]:
        """The files of some entries."""
        with ThreadPoolExecutor(_THREADS, "waiting") as pool:
            return [file for files in pool.map(self._read, names) for file in files]

    def _read(self, name: str) -> Sequence[DataFile]:
        # Its writer may have removed the entry, and a damaged one is its writer's to commit.
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            data = self._files.read(f"{self._folder}/{name}")
            if is_sealed(data):
                return [DataFile(**file) for file in json.loads(data)["files"]]
        return ()

    def remove(self, names: Iterable[str]) -> None:
        """Remove entries; one that stays does no harm."""
        with ThreadPoolExecutor(_THREADS, "waiting") as pool:
            list(pool.map(self._remove, names))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(Exception):  # clients of object stores raise their own errors
            self._files.delete(f"{self._folder}/{name}")
