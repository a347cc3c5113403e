"""A Dagster project in a temporary folder, loaded and run as a user's would be."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
    """A project with a package, a defs folder, and a Dagster home of its own.

    Attributes:
        root: folder of the project; its store is data/store, unless a component declares another.
        package: name of its package.
    """

    root: Path
    package: str = "shop"

    @classmethod
    def make(cls, root: Path, package: str = "shop") -> Self:
        """Create a project with an automation sensor and no catalog, in a folder of its own."""
        project = cls(root, package)
        project.write("pyproject.toml", _PYPROJECT.format(package=package))
        project.write(f"{package}/__init__.py", "")
        project.write(f"{package}/definitions.py", _DEFINITIONS)
        project.declare("automation", "AutomationComponent")
        project.home.mkdir(parents=True)
        return project

    @property
    def home(self) -> Path:
        """Its DAGSTER_HOME."""
        return self.root / "dagster_home"

    @property
    def store(self) -> Store:
        """Its store."""
        return Store.open(project_root=self.root)

    def write(self, path: str, text: str) -> Path:
        """Write a file below the root; indented text is dedented."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))
        return target

    def declare(self, name: str, kind: str, attributes: Mapping[str, Any] | None = None) -> Path:
        """Write defs/<name>/defs.yaml.

        Args:
            name: of the folder.
            kind: of the component, such as "ImageCatalogComponent".
            attributes: as in YAML.
        """
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
        """A Dagster instance that records in its home; a context manager."""
        return dg.DagsterInstance.local_temp(str(self.home))

    def materialize(self) -> bool:
        """Run everything in this process, as `imgsim run --all` does; whether it succeeded."""
        with self.instance() as instance:
            return LocalRun(self.definitions(), instance).run(everything=True).succeeded
