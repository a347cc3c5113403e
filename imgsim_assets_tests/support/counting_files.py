"""The files of a store, with a count of the bytes that are read from each table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from imgsim_assets.storage.files import Files


class CountingFiles:
    """Files that count what is read: `rows` and `commits`, bytes by the name of the table."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.rows: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def read(self, path: str) -> bytes:
        data = self._files.read(path)
        folder, _, _ = path.rpartition("/")
        is_data = folder.endswith("/data")
        table = folder.removesuffix("/data").removesuffix("/_commits")
        (self.rows if is_data else self.commits)[table] += len(data)
        return data
