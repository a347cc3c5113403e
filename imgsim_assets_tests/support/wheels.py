"""Build the wheel of this repository and install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import dagster

_ROOT = Path(__file__).parents[2]


def build_wheel(target: Path) -> Path:
    """Build the wheel into the folder `target`."""
    source = target.with_name("source")
    # Built from a copy: setuptools leaves its working files beside the sources.
    shutil.copytree(
        _ROOT / "imgsim_assets",
        source / "imgsim_assets",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    (wheel,) = target.glob("*.whl")
    return wheel


def create_environment(wheel: Path, folder: Path) -> Path:
    """Create a virtual environment with the wheel; its dependencies are those of this one.

    Returns:
        The environment's Python.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # A path file makes the packages importable, but not this repository's editable install.
    (site / "dependencies.pth").write_text(f"{Path(dagster.__file__).parents[1]}\n")
    _pip("install", "--no-deps", "--target", str(site), str(wheel))
    return folder / "bin" / "python"


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
