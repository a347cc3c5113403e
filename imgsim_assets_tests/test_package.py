"""The wheel, a project that installs it, and the files that describe this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.wheels import build_wheel, create_environment

_ROOT = Path(__file__).parents[1]
# Only the types of this package are read: those of the dependencies take half a minute.
_MYPY_CONFIG = """\
[mypy]
warn_unused_configs = false
{}
"""
_DEPENDENCIES = ["dagster", "polars", "numpy", "torch", "torchvision", "PIL", "pydantic", "aiohttp"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel."""
    return create_environment(wheel, tmp_path_factory.mktemp("installed") / "environment")


def test_wheel_contains_license_and_type_marker_but_no_catalogs_of_the_demo(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (license_name,) = [name for name in names if name.endswith("LICENSE")]
        license_text = archive.read(license_name).decode()

    assert "Apache License" in license_text
    assert "imgsim_assets/py.typed" in names
    assert not [name for name in names if name.startswith("imgsim_assets/defs")]


def test_mypy_reads_the_types_of_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "import imgsim_assets\n"
        "changes = imgsim_assets.read_changes('matches/pair', since=1)\n"
        "reveal_type(changes.until)\n"
        "imgsim_assets.read_table(name=1)\n"
    )
    skipped = [f"[mypy-{name}.*]\nfollow_imports = skip" for name in _DEPENDENCIES]
    (tmp_path / "mypy.ini").write_text(_MYPY_CONFIG.format("\n".join(skipped)))

    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--python-executable", str(installed)),
            *("--config-file", "mypy.ini", "--cache-dir", str(tmp_path / "cache"), "user.py"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 'user.py:3: note: Revealed type is "int"' in done.stdout, done.stdout + done.stderr
    assert "user.py:4: error:" in done.stdout
    assert "py.typed" not in done.stdout


def test_a_second_project_installs_the_wheel_and_loads_both_components(
    installed: Path, tmp_path: Path
) -> None:
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

    done = subprocess.run(
        [installed, "-c", script],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    location, keys = done.stdout.splitlines()[-2:]
    assert Path(location).is_relative_to(installed.parents[1]), done.stdout
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


def test_pre_commit_hooks_are_local() -> None:
    config = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())

    assert [repository["repo"] for repository in config["repos"]] == ["local"]


def test_ci_workflow_calls_make_targets_that_exist() -> None:
    workflow = yaml.safe_load((_ROOT / ".github/workflows/ci.yml").read_text())
    commands = {
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    }
    makefile = (_ROOT / "Makefile").read_text().splitlines()
    targets = {line.partition(":")[0] for line in makefile if line[:1].isalpha() and ":" in line}

    assert commands >= {"make test", "make lint", "make docs"}
    assert {command.removeprefix("make ") for command in commands} <= targets


def test_every_yaml_file_is_checked_also_several_of_one_component(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write("data/list.csv", "id,url\n1,http://127.0.0.1/a.jpg\n")
    project.declare("first", "ImageCatalogComponent", {"name": "first", "sourc": "data/list.csv"})
    project.declare("last", "ImageCatalogComponent", {"name": "last", "source": "data/list.csv"})
    shutil.rmtree(project.root / "shop/defs/automation")

    done = subprocess.run(
        [_ROOT / ".ci/check_yaml", project.root / "shop/defs"],
        cwd=project.root,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "first/defs.yaml:4" in done.stdout, done.stdout + done.stderr
    assert "'sourc' was unexpected" in done.stdout
    assert "last/defs.yaml:" not in done.stdout
