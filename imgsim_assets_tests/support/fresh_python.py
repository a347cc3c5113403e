"""A new Python process, which has imported nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from imgsim_assets_tests.support.processes import BUSY_S

_ROOT = Path(__file__).parents[2]


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that can import this project, and wait for it."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )


def printed_lines(code: str, *arguments: str, **environment: str) -> list[str]:
    """The lines that the code prints in a new interpreter; asserts that it succeeds."""
    process = run_python(code, *arguments, **environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()
