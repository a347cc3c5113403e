"""deploy/Dockerfile: its files and extras exist, and what it copies is enough."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from imgsim_assets_tests.deploy.files import DEPLOY, ROOT, dockerfile, services


def _copies() -> list[tuple[list[str], str]]:
    """Sources and target of every COPY from the checkout."""
    found = []
    for instruction, rest in dockerfile():
        if instruction == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            found.append((sources, target))
    return found


def test_last_stage_has_no_build_tools_and_runs_as_a_user() -> None:
    instructions = dockerfile()
    stages = [rest for name, rest in instructions if name == "FROM"]
    assert stages == ["python:3.12-slim-bookworm AS build", "python:3.12-slim-bookworm"]
    last = instructions[max(n for n, (name, _) in enumerate(instructions) if name == "FROM") :]
    names = [name for name, _ in last]

    assert not any("pip" in rest for name, rest in last if name == "RUN")
    assert dict(last)["USER"] == "imgsim"
    assert names.index("USER") < names.index("CMD")
    assert "HEALTHCHECK" in names


def test_copied_files_exist_and_are_sent_to_the_build() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert _copies()
    for sources, _ in _copies():
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, f"{name}*") for name in kept), source


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = set(re.findall(r"\.\[([a-z0-9,]+)\]", (DEPLOY / "Dockerfile").read_text()))

    assert used
    for extras in used:
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_command_and_healthcheck_are_those_of_the_code_location() -> None:
    instructions = dict(dockerfile())
    service = services()["code_location"]

    assert json.loads(instructions["CMD"]) == service["command"]
    check = instructions["HEALTHCHECK"].partition("CMD ")[2]
    assert ["CMD", *json.loads(check)] == service["healthcheck"]["test"]


@pytest.mark.slow
def test_copied_files_are_enough_to_load_the_code_location(tmp_path: Path) -> None:
    for sources, target in _copies():
        for source in sources:
            path = tmp_path / target.removeprefix("/opt/imgsim_assets/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, path, dirs_exist_ok=True)
            else:
                folder = path if target.endswith("/") else path.parent
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, path)
    script = (
        "import imgsim_assets, sys\n"
        "from imgsim_assets.definitions import defs\n"
        "defs().get_repository_def().get_all_jobs()\n"
        "print(imgsim_assets.__file__)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
