"""The code location of this repository, and of a project that installs the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.wheels import build_wheel, create_environment

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
    script = (
        "import sys\n"
        "from imgsim_assets.definitions import defs\n"
        "defs().get_repository_def().get_all_jobs()\n"
        "heavy = {'torch', 'torchvision', 'faiss', 'skimage', 'numpy', 'scipy', 'polars', "
        "'aiohttp', 'PIL', 'fsspec'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = _run([sys.executable, "-c", script], tmp_path)
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
        ["dg", "check", "yaml", "--target-path", str(_ROOT)],
        ["dg", "check", "defs", "--target-path", str(_ROOT)],
    ],
    ids=["dagster definitions validate", "dg check yaml", "dg check defs"],
)
def test_the_location_is_valid_from_any_folder(command: list[str], tmp_path: Path) -> None:
    path = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
    done = _run([str(_BIN / command[0]), *command[1:]], tmp_path, PATH=path)

    assert done.returncode == 0, done.stdout
    ours = [line for line in done.stdout.splitlines() if "WARNING" in line or "imgsim" in line]
    assert not [line for line in ours if "Warning" in line or "WARNING" in line], done.stdout


def test_a_second_project_installs_the_wheel_and_loads_both_components(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path / "dist")
    python = create_environment(wheel, tmp_path / "environment")
    project = Project.make(tmp_path / "second", package="second")
    project.write("list.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    for name in ("ours", "theirs"):
        attributes = {"name": name, "source": {"path": "list.csv"}, "encoder": "hog_color"}
        project.declare(name, "ImageCatalogComponent", attributes)
    project.declare(
        "pair", "MatchMatrixComponent", {"name": "pair", "left": "ours", "right": "theirs"}
    )
    script = (
        "import imgsim_assets\n"
        "from second.definitions import defs\n"
        "keys = sorted(spec.key.to_user_string() for spec in defs().resolve_all_asset_specs())\n"
        "print(imgsim_assets.__file__)\n"
        "print(*keys)\n"
    )

    done = _run([str(python), "-c", script], project.root, PYTHONPATH=str(project.root))

    location, keys = done.stdout.splitlines()[-2:]
    assert Path(location).is_relative_to(tmp_path / "environment"), done.stdout
    assert keys.split() == [
        "matches/pair",
        *(
            f"{name}/{stage}"
            for name in ("ours", "theirs")
            for stage in (
                "embeddings",
                "images",
                "index",
                "items",
                "similarity_graph",
                "source",
                "status",
            )
        ),
    ]
