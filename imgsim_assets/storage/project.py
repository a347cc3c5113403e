"""The Dagster project around a folder, read without Dagster and without running its code.

Commands and notebooks find the project's root and its store here. Only `env` is known in the
templates of its YAML files.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsim_assets.errors import SettingsError

_STORE_COMPONENT = "imgsim_assets.StoreComponent"
_STORE_IN_PYTHON = re.compile(r"\b(StoreResource|StoreComponent)\(")


@dataclass(frozen=True)
class DeclaredStore:
    """The store that a project's YAML declares.

    Attributes:
        url: local path or URL; None for the default.
        single_writer: whether only one run writes at a time; None for the default.
    """

    url: str | None
    single_writer: bool | None


def find_project_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` upwards, that holds a Dagster project.

    A Dagster project has a dg.toml, or a pyproject.toml with a [tool.dg] table. Without one,
    `start` (default: the working directory) is returned.
    """
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        pyproject = folder / "pyproject.toml"
        if (folder / "dg.toml").is_file():
            return folder
        if pyproject.is_file() and "[tool.dg" in pyproject.read_text(encoding="utf-8"):
            return folder
    return start


def defs_folder(root: Path) -> Path | None:
    """The folder of a Dagster project that holds its components."""
    for name in ("pyproject.toml", "dg.toml"):
        path = root / name
        if not path.is_file():
            continue
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        project = document.get("tool", {}).get("dg", document).get("project", {})
        module = str(project.get("root_module", ""))
        for base in (root / "src", root):
            if module and (base / module).is_dir():
                return base / module / "defs"
    return None


def declared_store(root: Path) -> DeclaredStore | None:
    """The store that a YAML file of the project declares.

    Raises:
        SettingsError: a file is not YAML, or a template cannot be resolved.
    """
    for file, document in yaml_documents(root, _STORE_COMPONENT):
        if document.get("type") == _STORE_COMPONENT:
            attributes = Templates(root, file).resolved(document.get("attributes") or {})
            single = attributes.get("single_writer")
            is_single = str(single).lower() == "true" if single is not None else None
            return DeclaredStore(attributes.get("url") or None, is_single)
    return None


def python_store_file(root: Path) -> Path | None:
    """The Python file of the project that declares its store; None if none does."""
    folder = defs_folder(root)
    for path in sorted(folder.rglob("*.py")) if folder is not None else ():
        text = path.read_text(encoding="utf-8", errors="replace")
        if "imgsim_assets" in text and _STORE_IN_PYTHON.search(text):
            return path
    return None


def yaml_documents(root: Path, containing: str = "") -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The documents of the project's YAML files, of those files that contain a text.

    Raises:
        SettingsError: a file is not YAML.
    """
    import yaml

    folder = defs_folder(root)
    for path in sorted(folder.rglob("*.y*ml")) if folder is not None else ():
        text = path.read_text(encoding="utf-8")
        if containing not in text:
            continue
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.MarkedYAMLError as error:
            # Without the error's own text, which shows lines of the file.
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise SettingsError(f"{path}:{line}: not YAML: {error.problem}") from None
        for document in documents:
            if isinstance(document, Mapping):
                yield path, document


class Templates:
    """The templates of a file, with the environment and the `.env` file of its project."""

    def __init__(self, root: Path, file: Path) -> None:
        self._root = root
        self._file = file

    def resolved(self, value: Any) -> Any:
        """A value with its templates resolved.

        Raises:
            SettingsError: a template uses something other than `env`, or a variable is not set.
        """
        if isinstance(value, Mapping):
            return {key: self.resolved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.resolved(inner) for inner in value]
        return self._text(value) if isinstance(value, str) and "{{" in value else value

    def _text(self, template: str) -> str:
        import jinja2
        from dotenv import dotenv_values
        from jinja2.sandbox import SandboxedEnvironment

        variables = {**dotenv_values(self._root / ".env"), **os.environ}
        sandbox = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
        try:
            return sandbox.from_string(template).render(env=_Environment(variables))
        except (jinja2.TemplateError, LookupError) as error:
            raise SettingsError(
                f"{self._file}: the template {template!r} cannot be resolved here: "
                f"{error.args[0]}; give the setting as an option"
            ) from None


class _Environment:
    """`env` of Dagster's templates: `env.NAME` and `env('NAME', 'default')`."""

    # Read by the sandbox; without them they would be names of variables.
    unsafe_callable = False
    alters_data = False

    def __init__(self, variables: Mapping[str, str | None]) -> None:
        self._variables = variables

    def __getattr__(self, name: str) -> str:
        if name.startswith(("_", "jinja")):
            raise AttributeError(name)
        return self(name)

    def __call__(self, name: str, default: str | None = None) -> str:
        value = self._variables.get(name)
        value = default if value is None else value
        if value is None:
            raise LookupError(f"the environment variable {name} is not set")
        return value
