"""Load the definitions of the project of a folder, as Dagster's own commands do."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from yaml.reader import ReaderError

from imgsim_assets.errors import ImgsimError, SettingsError

# What @dg.definitions makes of a function.
_LAZY_DEFINITIONS = type(dg.definitions(lambda: dg.Definitions()))


def load_project(root: Path) -> dg.Definitions:
    """The definitions of the Dagster project at `root`.

    Raises:
        SettingsError: there is no project, or it cannot be loaded.
    """
    module_name = _definitions_module(root)
    sys.path[:0] = [str(folder) for folder in (root, root / "src") if folder.is_dir()]
    # Asset checks are beta in Dagster, and are warned about whenever definitions are combined.
    warnings.simplefilter("ignore", dg.BetaWarning)
    try:
        return _find_definitions(importlib.import_module(module_name))
    except ImgsimError:
        raise
    except Exception as error:
        raise SettingsError(_message(error, module_name)) from error


def _definitions_module(root: Path) -> str:
    """The module that Dagster loads: tool.dg.project, else tool.dagster."""
    for name in ("dg.toml", "pyproject.toml"):
        path = root / name
        if not path.is_file():
            continue
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        tool = document.get("tool", {})
        project = tool.get("dg", document).get("project", {})
        if target := project.get("code_location_target_module"):
            return str(target)
        if package := project.get("root_module"):
            return f"{package}.definitions"
        if module := tool.get("dagster", {}).get("module_name"):
            return str(module)
    raise SettingsError(
        f"there is no Dagster project at {str(root)!r}; change to its folder, or create one with "
        "'create-dagster project'"
    )


def _find_definitions(module: Any) -> dg.Definitions:
    for value in vars(module).values():
        if isinstance(value, dg.Definitions):
            return value
        if isinstance(value, _LAZY_DEFINITIONS):
            loaded = value()
            if isinstance(loaded, dg.Definitions):
                return loaded
    raise SettingsError(f"{module.__name__} has no dg.Definitions")


def _message(error: BaseException, module_name: str) -> str:
    """The message of the error that was written for the person, if there is one in the chain."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ImgsimError):
            return str(link)
        if isinstance(link, yaml.MarkedYAMLError) and (mark := link.problem_mark) is not None:
            return (
                f"{mark.name}:{mark.line + 1}: this is not valid YAML: {link.problem}, in column "
                f"{mark.column + 1}; check the indentation, brackets and quotes"
            )
        if isinstance(link, ReaderError | UnicodeDecodeError) and (
            problem := next(_unreadable_yaml(module_name), None)
        ):
            return problem
        link = link.__cause__ or link.__context__
    return f"{module_name} cannot be loaded: {error}; 'dg check defs' shows where"


def _unreadable_yaml(module_name: str) -> Iterator[str]:
    """Messages about the YAML files of a package whose text cannot be read.

    The errors of their readers do not name the file.
    """
    package = importlib.util.find_spec(module_name.partition(".")[0])
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted([*Path(folder).rglob("*.yaml"), *Path(folder).rglob("*.yml")]):
            try:
                text = path.read_text(encoding="utf-8")
                next(iter(yaml.scan(text, Loader=yaml.SafeLoader)))
            except UnicodeDecodeError as error:
                line = error.object.count(b"\n", 0, error.start) + 1
                yield f"{path}:{line}: this is not text in UTF-8; save the file in UTF-8"
            except ReaderError as error:
                before, character = text[: error.position], ord(text[error.position])
                line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
                yield (
                    f"{path}:{line}: this is not valid YAML: the character "
                    f"U+{character:04X} is not allowed, in column {column}; remove it"
                )
