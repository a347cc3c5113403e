"""What Dagster does not publish of a project's components; the only module that uses it.

- `ComponentTree.find_root_decl` and the declarations below it: Dagster finds components of a type
  by the declared return type, and misses a `@dg.component_instance` without one, whose annotation
  is text, and everything that a component composes itself.
- `ResolutionContext.source_position_tree`: Dagster gives components no other way to the file and
  line of a YAML key.

`test_project_tree.py` fails when a new version of Dagster changes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import dagster as dg

C = TypeVar("C", bound=dg.Component)

# The parts of the project whose definitions are being built for a lookup, which must not be
# built again inside it.
_BUILDING: ContextVar[frozenset[Any]] = ContextVar("_BUILDING", default=frozenset())
# The components whose definitions were built, by the state of their tree.
_BUILT: WeakKeyDictionary[Any, list[dg.Component]] = WeakKeyDictionary()
# The places of the components, by the state of their tree: every component asks for them.
_LEAVES: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def add_built(context: dg.ComponentLoadContext, component: dg.Component) -> None:
    """Remember a component whose definitions are built, also one that another one composes."""
    built = _BUILT.setdefault(context.component_tree.state_tracker, [])
    if component not in built:
        built.append(component)


def find_components(context: dg.ComponentLoadContext, kind: type[C]) -> list[C]:
    """All components of a type in the project: YAML, Python, subclasses, and composed ones."""
    found = [each for _, each in _leaves(context) if isinstance(each, kind)]
    with _entered(context.component_loc):
        for _ in other_definitions(context):
            pass
    found += [
        each
        for each in _BUILT.get(context.component_tree.state_tracker, ())
        if isinstance(each, kind) and each not in found
    ]
    return found


def other_definitions(context: dg.ComponentLoadContext) -> Iterator[dg.Definitions]:
    """The definitions of the project's own Python files and components of other packages."""
    for loc, component in _leaves(context):
        modules = [base.__module__ for base in type(component).__mro__]
        is_ours = any(module.startswith(f"{__package__}.") for module in modules)
        if is_ours or loc == context.component_loc or loc in _BUILDING.get():
            continue
        with _entered(context.component_loc), _entered(loc):
            yield context.build_defs(loc)


def _leaves(context: dg.ComponentLoadContext) -> list[tuple[Any, dg.Component]]:
    """Every component that is not a folder or file of others, with its place in the project."""
    tree = context.component_tree
    if tree.state_tracker not in _LEAVES:
        pairs = tree.find_root_decl().iterate_loc_component_decl_pairs()
        _LEAVES[tree.state_tracker] = [
            loc
            for loc, declaration in pairs
            if not any(True for _ in declaration.iterate_child_component_decls())
        ]
    return [(loc, tree.load_component(loc)) for loc in _LEAVES[tree.state_tracker]]


@contextlib.contextmanager
def _entered(loc: Any) -> Iterator[None]:
    token = _BUILDING.set(_BUILDING.get() | {loc})
    try:
        yield
    finally:
        _BUILDING.reset(token)


def source_location(
    context: dg.ComponentLoadContext, positions: Any, key: Sequence[str | int]
) -> str:
    """File and line of a key below `attributes`, as far as it exists; the file alone in Python."""
    if positions is None:
        return str(_relative_to(Path(context.component_path.file_path), context.project_root))
    position, _ = positions.lookup_closest_and_path(["attributes", *key], trace=None)
    return f"{_relative_to(Path(position.filename), context.project_root)}:{position.start.line}"


def _relative_to(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
