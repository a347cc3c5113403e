"""The attributes of a YAML file: their schema, which allows templates, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from imgsim_assets.errors import SettingsError
from imgsim_assets.invalid_values import message_of, number_in_words, shown
from imgsim_assets.settings import Settings

S = TypeVar("S", bound=Settings)
Path = tuple[str | int, ...]
# Names the place of a key in the YAML file.
Locate = Callable[[Sequence[str | int]], str]

_TEXT = {"type": "string"}
_TEMPLATE = {"type": "string", "description": "a template"}
# Text without a template.
_IS_PLAIN = {"not": {"pattern": r"\{\{"}}
_ANNOTATIONS = ("title", "description", "default", "examples")
_RESOLVED_FOR_EACH_ASSET = ("translation",)
# The bounds of numbers in a JSON schema, by their names in pydantic.
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
_IN_WORDS = {"array": "a list", "null": "null", "object": "a mapping", "string": "text"}
# Text behind this character is not read as a Python literal, which Dagster does otherwise.
_LITERAL = "\0"


class YamlAttributes(BaseModel):
    """Attributes as written. They are validated once their templates are resolved."""

    model_config = ConfigDict(extra="allow")
    settings_type: ClassVar[type[Settings]]

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema of the settings, where a template may stand for every value."""
        schema = cls.settings_type.model_json_schema(*args, **kwargs)
        return _with_templates(_inlined(schema, schema.pop("$defs", {})))


@cache
def attributes_model(settings_type: type[Settings]) -> type[YamlAttributes]:
    """The model of the attributes that become the given settings."""
    model = create_model(
        f"{settings_type.__name__}Attributes",
        __base__=YamlAttributes,
        __doc__=settings_type.__doc__,
    )
    model.settings_type = settings_type
    return model


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema without references; settings do not contain themselves."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    rest = {key: _inlined(value, definitions) for key, value in schema.items() if key != "$ref"}
    if "$ref" not in schema:
        return rest
    name = schema["$ref"].removeprefix("#/$defs/")
    return _inlined(definitions[name], definitions) | rest


def _with_templates(schema: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The JSON schema of a key's value, in which every value below an object may be a template."""
    changed = dict(schema)
    if "properties" in schema:
        properties = schema["properties"].items()
        changed["properties"] = {key: _value_or_template(value, key) for key, value in properties}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            changed[name] = _value_or_template(schema[name], key)
    if "anyOf" in schema:
        changed["anyOf"] = [_with_templates(choice, key) for choice in schema["anyOf"]]
    return changed


def _value_or_template(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    annotations = {name: schema[name] for name in _ANNOTATIONS if name in schema}
    value = _with_templates({name: schema[name] for name in schema if name not in annotations}, key)
    choices = value.pop("anyOf", None) or [value]
    described = [choice["description"] for choice in choices if "description" in choice]
    if described:
        annotations.setdefault("description", described[0])
    if any(map(_is_secret, choices)):
        # Any value is valid here, because an error of the schema would show it.
        return {**annotations, "format": "password", "writeOnly": True}
    if not all("type" in choice for choice in choices) or choices == [_TEXT]:
        return {**annotations, **({"anyOf": choices} if len(choices) > 1 else choices[0])}
    return {**annotations, "anyOf": _shown(choices), "allOf": _checks(choices, key)}


def _shown(choices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The choices of a value for documentation, which admit what `_checks` has better errors for.

    An error of `anyOf` says only that no choice is valid.
    """
    scalars = [
        {key: each[key] for key in each if key in ("type", "enum", "const", "description")}
        if each["type"] in ("integer", "number", "string")
        else each
        for each in choices
    ]
    template = [] if _TEXT in choices else [_TEMPLATE]
    types = {each["type"] for each in choices}
    nested = [{"type": name} for name in sorted(types & {"object", "array"})]
    return [*scalars, *template, *nested, {"not": {"type": sorted({*types, "string"})}}]


def _checks(choices: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """Schemas that are applied by the type of the value, so that an error names what is wrong.

    The error of an `enum` is the only one with words of the schema: it lists them. Text in these
    words passes here, and is refused when the settings are validated.
    """
    of_types: dict[str, list[Mapping[str, Any]]] = {}
    for each in choices:
        of_types.setdefault(each["type"], []).append(each)
    allowed = [word for each in choices for word in _in_words(each, key)]
    of_types.setdefault("string", [{"enum": allowed}])
    if all("enum" in each or "const" in each for each in of_types["string"]):
        of_types["string"] = [{"enum": allowed}]
    return [
        *(
            {
                "if": {"type": name, **(_IS_PLAIN if name == "string" else {})},
                "then": {"anyOf": of_type} if len(of_type) > 1 else of_type[0],
            }
            for name, of_type in of_types.items()
            if of_type != [{"type": name}]
        ),
        {"if": {"not": {"type": sorted(of_types)}}, "then": {"enum": allowed}},
    ]


def _in_words(choice: Mapping[str, Any], key: str) -> list[Any]:
    """What a choice of a value admits, as an error lists it."""
    if "enum" in choice or "const" in choice:
        return list(choice.get("enum", [choice.get("const")]))
    name = choice["type"]
    if name == "boolean":
        return ["true", "false"]
    if name in ("integer", "number"):
        bounds = {each: choice[word] for each, word in _BOUNDS.items() if word in choice}
        return [number_in_words(key, bounds, "whole number" if name == "integer" else "number")]
    return [_IN_WORDS[name]]


def _is_secret(schema: Any) -> bool:
    """Whether a schema is that of secret text, or of a mapping of names to it."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("format") == "password" or _is_secret(schema.get("additionalProperties"))


@dataclass(frozen=True)
class _Template:
    """What a template may stand for, the most likely first."""

    path: Path
    values: tuple[Any, ...]


def resolve_settings(
    settings_type: type[S],
    attributes: Mapping[str, Any],
    resolution: dg.ResolutionContext,
    locate: Locate,
) -> S:
    """The settings that attributes declare, with templates such as `{{ env.STORE }}` resolved.

    A template gives text, unless only what the text says as a Python literal is valid.

    Args:
        settings_type: the class of the settings.
        attributes: the attributes as written.
        resolution: what templates refer to.
        locate: names the place of a key in the file, with which errors begin.

    Raises:
        SettingsError: with place and key of every invalid value. It shows no secret, and no line
            of the file.
    """
    templates = [
        _Template(path, _possible_values(text, resolution, locate(path)))
        for path, text in _template_texts(attributes)
    ]
    first = {template.path: template.values[0] for template in templates}
    try:
        return settings_type.model_validate(_replaced(attributes, first))
    except ValidationError as error:
        failed = [line["loc"] for line in error.errors(include_url=False)]
        others = {
            template.path: template.values[-1]
            for template in templates
            if any(_is_related(template.path, location) for location in failed)
        }
        retried = first | others
        if retried != first:
            try:
                return settings_type.model_validate(_replaced(attributes, retried))
            except ValidationError as other:
                if not all(
                    any(_is_related(path, line["loc"]) for path in others)
                    for line in other.errors(include_url=False)
                ):
                    error = other
        raise SettingsError(_described(error, attributes, locate)) from None


def _template_texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if path == _RESOLVED_FOR_EACH_ASSET:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _template_texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _template_texts(inner, (*path, number))
    elif isinstance(value, str) and "{{" in value:
        yield path, value


def _possible_values(
    template: str, resolution: dg.ResolutionContext, place: str
) -> tuple[Any, ...]:
    try:
        # Without the positions: with them, errors show the lines around the template.
        unplaced = resolution.with_source_position_tree(None)  # type: ignore[arg-type]
        literal = unplaced.resolve_value(template)
        text = str(unplaced.resolve_value(_LITERAL + template)).removeprefix(_LITERAL)
    except Exception as error:
        raise SettingsError(
            f"{place}: the template {template!r} cannot be resolved: {_reason(error)}"
        ) from None
    if isinstance(literal, str):
        return (text,)
    return (text, literal) if isinstance(literal, bool | int | float) else (literal, text)


def _reason(error: Exception) -> str:
    """Why a template cannot be resolved, without the values that it refers to."""
    last = str(error).strip().splitlines()[-1] if str(error).strip() else ""
    names_only = ("UndefinedError", "TemplateSyntaxError", "TemplateAssertionError", "Environment")
    for name in names_only:
        if name in last:
            return last[last.index(name) :]
    return type(error).__name__


def _replaced(value: Any, values: Mapping[Path, Any], path: Path = ()) -> Any:
    if path in values:
        return values[path]
    if isinstance(value, Mapping):
        return {key: _replaced(inner, values, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(inner, values, (*path, number)) for number, inner in enumerate(value)]
    return value


def _is_related(path: Path, location: Path) -> bool:
    """Whether an error may come from the value at a path: one of both is inside of the other."""
    shared = min(len(path), len(location))
    return path[:shared] == location[:shared]


def _described(error: ValidationError, attributes: Mapping[str, Any], locate: Locate) -> str:
    lines = []
    for line in error.errors(include_url=False):
        key, written = _written(attributes, line["loc"])
        problem = message_of(line)
        if isinstance(written, str) and "{{" in written:
            # What a template stands for may be a secret.
            problem = problem.replace(shown(line["input"]), repr(written))
        lines.append(f"{locate(key)}: {problem}")
    return "\n".join(dict.fromkeys(lines))


def _written(value: Any, location: Path) -> tuple[Path, Any]:
    """The key of an error as far as it exists in the file, and what is written there."""
    key: Path = ()
    for part in location:
        is_key = isinstance(value, Mapping) and part in value
        is_place = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not (is_key or is_place):
            # A missing key is named; pydantic's names of validators are not.
            missing = isinstance(part, str) and part.isidentifier() and part == location[-1]
            return ((*key, part), None) if missing and isinstance(value, Mapping) else (key, value)
        key, value = (*key, part), value[part]
    return key, value
