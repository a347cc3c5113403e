"""Dagster projects made in a temporary folder, loaded and run as a user's would be."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from imgsim_assets.components.local_run import LocalRun
from imgsim_assets.storage.store import Store

_PYPROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "{package}"
code_location_name = "{package}"
registry_modules = []
[tool.dagster]
module_name = "{package}.definitions"
code_location_name = "{package}"
"""
_DEFINITIONS = """
from pathlib import Path
import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@dataclass(frozen=True)
class Project:
    """A project with a package, a defs folder, and a Dagster home of its own."""

    root: Path
    package: str = "shop"

    @classmethod
    def make(cls, root: Path, package: str = "shop") -> Project:
        project = cls(root, package)
        project.write("pyproject.toml", _PYPROJECT.format(package=package))
        project.write(f"{package}/__init__.py", "")
        project.write(f"{package}/definitions.py", _DEFINITIONS)
        project.declare("automation", "AutomationComponent")
        project.home.mkdir(parents=True)
        return project

    @property
    def home(self) -> Path:
        return self.root / "dagster_home"

    @property
    def store(self) -> Store:
        return Store.open(project_root=self.root)

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))
        return target

    def declare(self, name: str, kind: str, attributes: Mapping[str, Any] | None = None) -> Path:
        """Write defs/<name>/defs.yaml."""
        document: dict[str, Any] = {"type": f"imgsim_assets.{kind}"}
        if attributes is not None:
            document["attributes"] = dict(attributes)
        return self.write(
            f"{self.package}/defs/{name}/defs.yaml", yaml.safe_dump(document, sort_keys=False)
        )

    def definitions(self) -> dg.Definitions:
        """Loaded in this process, as if for the first time."""
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            del sys.modules[name]
        sys.path[:] = [str(self.root), *(entry for entry in sys.path if entry != str(self.root))]
        importlib.invalidate_caches()
        loaded: dg.Definitions = dg.load_from_defs_folder(
            path_within_project=self.root / self.package
        )
        return loaded

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.local_temp(str(self.home))

    def materialize(self) -> bool:
        """Everything, in this process, as `make demo` does it."""
        with self.instance() as instance:
            return LocalRun(self.definitions(), instance).run(everything=True).succeeded

    def environment(self, **more: str) -> dict[str, str]:
        """For subprocesses: this project's package and home, and this checkout."""
        return {
            **os.environ,
            "PYTHONPATH": f"{self.root}{os.pathsep}{Path(__file__).parents[2]}",
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            **more,
        }

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """`materialize` in another process."""
        script = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "from imgsim_assets_tests.support.projects import Project\n"
            "from imgsim_assets_tests.support.fast_sqlite import disable_fsync\n"
            "disable_fsync()\n"
            "sys.exit(0 if Project(Path(sys.argv[1]), sys.argv[2]).materialize() else 1)\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", script, str(self.root), self.package],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def check_definitions(self) -> str:
        """What `dagster definitions validate` says, in one string."""
        dagster = Path(sys.executable).with_name("dagster")
        done = subprocess.run(
            [str(dagster), "definitions", "validate"],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout
