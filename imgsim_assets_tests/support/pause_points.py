"""Pauses a run right before one of its commits, so that a test can inspect or kill it there.

The project under test calls `install_pause_point` on import, in every process of a run. The test
chooses the commit with a `PausePoint`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FOLDER = "IMGSIM_TEST_PAUSE"
_POLL_SECONDS = 0.05


class PausePoint:
    """Controls the pause from the test; the variable FOLDER passes `folder` to the runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def before(self, commit: str) -> None:
        """Pause the next process before it creates a file whose path contains `commit`."""
        _reached(self.folder).unlink(missing_ok=True)
        _requested(self.folder).write_text(commit)

    def is_reached(self) -> bool:
        return _reached(self.folder).exists()

    def release(self) -> None:
        _requested(self.folder).unlink(missing_ok=True)


def install_pause_point() -> None:
    """Make this process wait where a `PausePoint` says."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    requested, reached = _requested(Path(folder)), _reached(Path(folder))

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        # A commit is created by a hard link to its name; see LocalFiles.create.
        if event != "os.link" or not requested.exists():
            return
        if requested.read_text() in str(arguments[1]):
            reached.touch()
            while requested.exists():
                time.sleep(_POLL_SECONDS)

    sys.addaudithook(wait)


def _requested(folder: Path) -> Path:
    return folder / "requested"


def _reached(folder: Path) -> Path:
    return folder / "reached"
