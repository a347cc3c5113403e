"""Projects of `imgsim_assets.testing`, which other processes load too."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imgsim_assets import testing
from imgsim_assets_tests.support.fast_dagster import HOME


@dataclass(frozen=True)
class Project(testing.Project):
    """A project that subprocesses of a test work on."""

    @classmethod
    def make(cls, root: Path, package: str = "shop") -> Self:
        """Create a project whose runs are recorded without their output."""
        project = super().make(root, package)
        (project.home / "dagster.yaml").write_text(HOME)
        return project

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
            "from imgsim_assets_tests.support.fast_dagster import disable_fsync\n"
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
