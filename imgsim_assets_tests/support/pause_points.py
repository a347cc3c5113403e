"""Holding a run still right before one of its commits, so that it can be looked at or killed there.

The project under test calls `hold_where_asked` when it is imported, and so in every process of
a run; the test says where with a `Hold`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FOLDER = "IMGSIM_TEST_HOLD"
_POLL_SECONDS = 0.05


class Hold:
    """The test's side. `folder` is what the environment of the runs calls by FOLDER."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def before(self, commit: str) -> None:
        """Hold the next process that is about to create a file whose path contains `commit`."""
        _reached(self.folder).unlink(missing_ok=True)
        _wanted(self.folder).write_text(commit)

    def is_reached(self) -> bool:
        return _reached(self.folder).exists()

    def release(self) -> None:
        _wanted(self.folder).unlink(missing_ok=True)


def hold_where_asked() -> None:
    """The run's side: from now on this process waits where a `Hold` says."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    wanted, reached = _wanted(Path(folder)), _reached(Path(folder))

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        # A commit is created by a hard link to its name; see LocalFiles.create.
        if event != "os.link" or not wanted.exists():
            return
        if wanted.read_text() in str(arguments[1]):
            reached.touch()
            while wanted.exists():
                time.sleep(_POLL_SECONDS)

    sys.addaudithook(wait)


def _wanted(folder: Path) -> Path:
    return folder / "wanted"


def _reached(folder: Path) -> Path:
    return folder / "reached"
