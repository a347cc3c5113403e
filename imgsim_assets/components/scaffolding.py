"""What `dg scaffold defs` writes: the parameters, and every other key as a comment."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any, ClassVar

import click
import dagster as dg
import yaml
from pydantic import BaseModel

from imgsim_assets.pipeline.settings import NAME_PATTERN
from imgsim_assets.settings import Settings

_PACKAGE = __name__.split(".")[0]


class SettingsScaffolder(dg.Scaffolder[BaseModel]):
    """Declares a component by settings, as YAML or in Python.

    A subclass names the settings, the parameters, and the attributes that follow from them.
    """

    settings_type: ClassVar[type[Settings]]
    params_type: ClassVar[type[BaseModel]]

    @classmethod
    def get_scaffold_params(cls) -> type[BaseModel]:
        """The options of `dg scaffold defs`."""
        return cls.params_type

    def attributes(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of a component.

        Args:
            name: of the folder.
            params: the given parameters.
        """
        del name
        return dict(params)

    def scaffold(self, request: dg.ScaffoldRequest[BaseModel]) -> None:
        """Write defs.yaml or component.py.

        Raises:
            UsageError: when the parameters are not valid settings.
        """
        params = request.params.model_dump(exclude_none=True, exclude_defaults=True)
        attributes = self.attributes(_component_name(request.target_path.name), params)
        try:
            self.settings_type.model_validate(attributes)
        except ValueError as error:
            raise click.UsageError(
                f"these parameters declare no {self._class_name(request)}: {error}"
            ) from None
        if request.scaffold_format == "python":
            target, text = request.target_path / "component.py", self._python(request, attributes)
        else:
            target, text = request.target_path / "defs.yaml", self._yaml(request, attributes)
        if request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        else:
            target.write_text(text, encoding="utf-8")

    def _class_name(self, request: dg.ScaffoldRequest[BaseModel]) -> str:
        return request.type_name.rpartition(".")[2]

    def _yaml(self, request: dg.ScaffoldRequest[BaseModel], attributes: Mapping[str, Any]) -> str:
        is_own = request.type_name.startswith(f"{_PACKAGE}.")
        kind = f"{_PACKAGE}.{self._class_name(request)}" if is_own else request.type_name
        lines = [f"type: {kind}", "attributes:" if attributes else "# attributes:"]
        if attributes:
            declared = yaml.safe_dump(dict(attributes), sort_keys=False, allow_unicode=True)
            lines.append(textwrap.indent(declared.rstrip("\n"), "  "))
        comment = "  # " if attributes else "#   "
        for key, field in self.settings_type.model_fields.items():
            if key not in attributes and not field.is_required():
                default = field.get_default(call_default_factory=True)
                meaning = field.description or (type(default).__doc__ or "").partition("\n")[0]
                lines.append(f"{comment}{key}: {_default(default)}  # {meaning}")
        return "\n".join(lines) + "\n"

    def _python(self, request: dg.ScaffoldRequest[BaseModel], attributes: Mapping[str, Any]) -> str:
        module, _, component = request.type_name.rpartition(".")
        module = _PACKAGE if module.startswith(f"{_PACKAGE}.") else module
        settings = self.settings_type.__name__
        arguments = ", ".join(f"{key}={_literal(value)}" for key, value in attributes.items())
        same = sorted([component, settings]) if module == _PACKAGE else [settings]
        other = "" if module == _PACKAGE else f"from {module} import {component}\n"
        return (
            f"import dagster as dg\n\nfrom {_PACKAGE} import {', '.join(same)}\n{other}\n\n"
            "@dg.component_instance\n"
            f"def load(context: dg.ComponentLoadContext) -> {component}:\n"
            f"    return {component}({settings}({arguments}))\n"
        )


def _component_name(folder: str) -> str:
    """The name of a component in a folder, as names are written."""
    name = re.sub(r"[^a-z0-9_]+", "_", folder.lower()).strip("_")
    return name if re.fullmatch(NAME_PATTERN, name) else f"catalog_{name}"


def _default(value: Any) -> str:
    """A default as YAML in one line; that of a group of keys is an empty mapping."""
    if isinstance(value, BaseModel):
        return "{}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | dict | list) else repr(value)
