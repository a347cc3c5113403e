"""Write docs/settings.md, the reference of all YAML keys, from the settings classes.

`make reference` runs this file; a test compares the page with the classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from imgsim_assets.pipeline.settings import (
    AutomationSettings,
    CatalogSettings,
    DuplicateGroupsSettings,
    MatchMatrixSettings,
    RetentionSettings,
    StoreSettings,
)

PAGE = Path(__file__).parents[1] / "settings.md"
COMPONENTS: Mapping[str, type[BaseModel]] = {
    "ImageCatalogComponent": CatalogSettings,
    "MatchMatrixComponent": MatchMatrixSettings,
    "DuplicateGroupsComponent": DuplicateGroupsSettings,
    "RetentionComponent": RetentionSettings,
    "StoreComponent": StoreSettings,
    "AutomationComponent": AutomationSettings,
}
_HEAD = """# All settings

All keys of the YAML files, component by component. `make reference` writes this page from the
settings classes, which also check the YAML; do not edit it. The same names are the fields of the
classes in Python.
"""
_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}
_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}


def render() -> str:
    """The text of the page."""
    shown: set[str] = set()
    sections = (line for name in COMPONENTS for line in _component(name, shown))
    return "\n".join([_HEAD, *sections])


def _component(name: str, shown: set[str]) -> Iterator[str]:
    schema = COMPONENTS[name].model_json_schema()
    yield f"## {name}\n"
    yield f"`type: imgsim_assets.{name}`\n"
    yield from _table(schema, schema.get("$defs", {}), shown)


def _table(schema: Mapping[str, Any], classes: Mapping[str, Any], shown: set[str]) -> Iterator[str]:
    """The table of one class, then the sections of the classes that its keys contain.

    Args:
        schema: JSON schema of the class.
        classes: JSON schemas of all classes, by name.
        shown: keys that have a section; a class that occurs again is not repeated.
    """
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    required = schema.get("required", [])
    nested = []
    for key, field in sorted(
        schema["properties"].items(), key=lambda item: item[0] not in required
    ):
        group = _group(field, classes)
        if group is not None and key not in shown:
            nested.append((key, group))
            shown.add(key)
        default = _default(key, field, schema, is_group=group is not None)
        value = f"[keys of {key}](#{key})" if group is not None else _value(field)
        meaning = field.get("description") or (group or {}).get("description", "")
        yield f"| `{key}` | {value} | {default} | {_cell(meaning)} |"
    yield ""
    for key, group in nested:
        yield f"### `{key}`\n"
        yield f"{group.get('description', '').splitlines()[0]}\n"
        yield from _table(group, classes, shown)


def _group(field: Mapping[str, Any], classes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the settings class that a key contains; None for a plain value."""
    choices: list[Mapping[str, Any]] = [field, *field.get("anyOf", [])]
    for choice in choices:
        name = choice.get("$ref", "").rpartition("/")[2]
        schema: Mapping[str, Any] = classes.get(name, choice)
        if "properties" in schema:
            return schema
    return None


def _value(field: Mapping[str, Any]) -> str:
    """The type and the limits of a plain value."""
    if "anyOf" in field:
        single, *others = field["anyOf"]
        if others and all(choice.get("items") == single for choice in others):
            return f"{_value(single)}, or a list"
        return " or ".join(_value(choice) for choice in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{_yaml(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("format") == "password":
        return "secret text"
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])} {_value(field['prefixItems'][0])}s"
        return f"list of {_value(field.get('items', {}))}"
    name = _TYPES.get(field.get("type", ""), "any")
    limits = [f"{sign} {field[limit]:,}" for limit, sign in _LIMITS.items() if limit in field]
    return " ".join([name, *([", ".join(limits)] if limits else [])])


def _default(
    key: str, field: Mapping[str, Any], schema: Mapping[str, Any], *, is_group: bool
) -> str:
    if key in schema.get("required", []):
        return "required"
    default = field.get("default")
    if default is None or default == [] or default == {}:
        return "none"
    if is_group:
        return "its defaults"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:,}"
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`" if default != "" else '`""`'


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` return 1 if it is not current."""
    if arguments == ["--check"]:
        if PAGE.read_text() == render():
            return 0
        print("docs/settings.md is not current: run 'make reference'")
        return 1
    PAGE.write_text(render())
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
