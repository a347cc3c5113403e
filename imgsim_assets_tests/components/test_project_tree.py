"""What this package uses of Dagster without it being published; fails first after an upgrade."""

from __future__ import annotations

import ast
import weakref
from pathlib import Path

import dagster as dg
import pytest

import imgsim_assets
from imgsim_assets_tests.support.projects import Project

_PACKAGE = Path(imgsim_assets.__file__).parent


def test_no_module_imports_a_private_module_of_dagster() -> None:
    private = [
        f"{path.relative_to(_PACKAGE)}: {name}"
        for path in _PACKAGE.rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0].startswith("dagster") and name != "dagster"
    ]

    assert private == []


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found.append(node.module)
    return found


def test_the_tree_lists_every_declaration_with_its_place_and_children(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.write(
        "shop/defs/own.py",
        """
        import dagster as dg
        import imgsim_assets

        @dg.component_instance
        def own(context):
            return imgsim_assets.StoreComponent(imgsim_assets.StoreSettings())
        """,
    )
    project.definitions()  # makes the package importable
    tree = dg.ComponentTree.for_project(project.root)

    pairs = list(tree.find_root_decl().iterate_loc_component_decl_pairs())
    loaded = [
        tree.load_component(loc)
        for loc, declaration in pairs
        if not list(declaration.iterate_child_component_decls())
    ]

    kinds = {type(component).__name__ for component in loaded}
    assert {"AutomationComponent", "StoreComponent"} <= kinds
    assert tree.state_tracker is tree.state_tracker
    weakref.ref(tree.state_tracker)


def test_the_resolution_context_knows_file_and_line_of_a_key(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    project.declare("automation", "AutomationComponent", {"name": "a", "interval_s": 0})

    with pytest.raises(Exception, match="Error while loading component") as raised:
        project.definitions()

    place = "shop/defs/automation/defs.yaml:4: attributes.interval_s: "
    assert str(raised.value.__cause__).startswith(place)
