"""Runs a step of another process between two file operations of this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imgsim_assets.storage.files import Entry
from imgsim_assets.storage.local_files import LocalFiles


class InterruptedFiles(LocalFiles):
    """Local files that call `act` once, at a `moment` such as "after create".

    The moment is the first such operation on a path that contains `part`.
    """

    def __init__(self, root: Path, moment: str, part: str, act: Callable[[], object]) -> None:
        super().__init__(root)
        self._moment = moment
        self._part = part
        self._act = act
        self.acted = False

    def _reach(self, moment: str, path: str) -> None:
        if moment == self._moment and self._part in path and not self.acted:
            self.acted = True
            self._act()

    def read(self, path: str) -> bytes:
        data = super().read(path)
        self._reach("after read", path)
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        data = super().read_range(path, start, length)
        self._reach("after part", path)
        return data

    def stat(self, path: str) -> Entry | None:
        entry = super().stat(path)
        self._reach("after stat", path)
        return entry

    def entries(self, folder: str) -> list[Entry]:
        listed = super().entries(folder)
        self._reach("after entries", folder)
        return listed

    def write(self, path: str, data: bytes) -> None:
        super().write(path, data)
        self._reach("after write", path)

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        self._reach("after create", path)
