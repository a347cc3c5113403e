"""The code location of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.large_catalog import write_large_catalog

_ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent


def _run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "DAGSTER_DISABLE_TELEMETRY": "yes", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_loading_the_location_imports_none_of_the_libraries_that_work(tmp_path: Path) -> None:
    write_large_catalog(Store.open(tmp_path / "store"), "products", 1_000_000)
    script = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        # Dagster imports what other packages register, too.
        "for point in entry_points(group='dagster_dg_cli.registry_modules'):\n"
        "    _ = point.value == 'imgsim_assets' or point.load()\n"
        "others = set(sys.modules)\n"
        "from imgsim_assets.definitions import defs\n"
        "defs().get_repository_def().get_all_jobs()\n"
        "heavy = {'torch', 'torchvision', 'faiss', 'skimage', 'numpy', 'scipy', 'polars', "
        "'aiohttp', 'PIL', 'fsspec'} & (set(sys.modules) - others)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = _run([sys.executable, "-c", script], tmp_path, IMGSIM_STORE=str(tmp_path / "store"))
    assert "products/similarity_graph compares 1,000,000 images" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stdout


def test_importing_the_package_does_not_import_dagster(tmp_path: Path) -> None:
    script = (
        "import sys, imgsim_assets\nimgsim_assets.read_table\nprint('dagster' in sys.modules)\n"
    )
    assert _run([sys.executable, "-c", script], tmp_path).stdout.strip() == "False"


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-w", str(_ROOT / "workspace.yaml")],
        ["dg", "check", "defs", "--target-path", str(_ROOT)],  # checks the YAML too
    ],
    ids=["dagster definitions validate", "dg check defs"],
)
def test_the_location_is_valid_from_any_folder(command: list[str], tmp_path: Path) -> None:
    path = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
    done = _run([str(_BIN / command[0]), *command[1:]], tmp_path, PATH=path)

    assert done.returncode == 0, done.stdout
    ours = [line for line in done.stdout.splitlines() if "WARNING" in line or "imgsim" in line]
    assert not [line for line in ours if "Warning" in line or "WARNING" in line], done.stdout
