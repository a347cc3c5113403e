from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imgsim_assets.scratch import remove_abandoned, scratch_folder

_KILLED = """
import os, signal
from imgsim_assets.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "index.faiss").write_bytes(bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_deleted_at_the_end(tmp_path: Path) -> None:
    with scratch_folder() as folder:
        (folder / "rows.parquet").write_bytes(b"rows")
        assert folder.parent == tmp_path

    assert not any(tmp_path.iterdir())


def test_folders_of_killed_processes_are_deleted_and_those_in_use_are_kept(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert killed.returncode < 0
    (left,) = tmp_path.iterdir()
    with scratch_folder() as used:
        for folder in (left, used):
            os.utime(folder, (0, 0))
        remove_abandoned.cache_clear()

        remove_abandoned(tmp_path)

        assert [*tmp_path.iterdir()] == [used]


def test_a_folder_that_is_new_is_kept(tmp_path: Path) -> None:
    new = Path(tempfile.mkdtemp(prefix="imgsim-scratch-"))
    remove_abandoned.cache_clear()

    remove_abandoned(tmp_path)

    assert new.is_dir()
