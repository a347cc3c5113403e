"""Ages of the files of a store on disk."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

from imgsim_assets.storage.commit_log import LATEST
from imgsim_assets_tests.support.tables import resealed


def make_older(root: Path, hours: float) -> None:
    """Shift the times of every file and commit below a folder into the past."""
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        status = path.stat()
        if path.suffix == ".json" and (path.parent.name == "_commits" or path.name == LATEST):
            commit = json.loads(path.read_text())
            committed = datetime.fromisoformat(commit["committed_at"]) - timedelta(hours=hours)
            commit["committed_at"] = committed.isoformat(timespec="milliseconds")
            path.write_bytes(resealed(commit))
        os.utime(path, (status.st_atime, status.st_mtime - hours * 3600))


def file_sizes(root: Path) -> dict[str, int]:
    """The size of every file below a folder."""
    return {
        str(path.relative_to(root)): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
