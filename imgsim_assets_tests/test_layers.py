"""One way through the house: packages import only what stands below them."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import imgsim_assets

_PACKAGE = Path(imgsim_assets.__file__).parent
_LAYERS = [
    ["cli"],
    ["testing"],
    ["demo"],
    ["definitions"],
    ["components"],
    ["service"],
    ["search"],
    ["gallery"],
    ["pipeline"],
    ["evaluation"],
    ["similarity"],
    ["index"],
    ["reviews"],
    ["encoders"],
    ["download"],
    ["catalog"],
    ["images"],
    ["storage"],
    ["compute"],
    ["errors", "settings", "progress", "lazy", "scratch"],
    ["invalid_values"],
    ["text"],
    ["pages"],
]
_HEIGHT = {name: -depth for depth, layer in enumerate(_LAYERS) for name in layer}


def _imports() -> dict[str, set[str]]:
    """What each module of the package imports of it, inside of functions too."""
    modules = {
        ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts): path
        for path in _PACKAGE.rglob("*.py")
        if path.name != "__init__.py" and "defs" not in path.relative_to(_PACKAGE).parts
    }
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
        found[module] = names & modules.keys()
    return found


def _part(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down_only() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in _imports().items()
        for other in others
        if _part(module) != _part(other) and _HEIGHT[_part(other)] >= _HEIGHT[_part(module)]
    ]

    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(list(TopologicalSorter(_imports()).static_order())) == len(_imports())


@pytest.mark.parametrize("library", ["dagster", "dagster_shared"])
def test_only_components_and_layers_above_import_dagster(library: str) -> None:
    knowing = {
        path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
        for path in _PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and library in {a.name.split(".")[0] for a in node.names})
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == library)
    }

    assert knowing <= {"components", "definitions", "demo", "defs", "testing"}
