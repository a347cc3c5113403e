"""Why a value of a setting is not valid, and what to write, in place of pydantic's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from imgsim_assets.text import counted

# What a number counts, by the last word of its key.
_UNITS = {
    "bytes": "bytes",
    "hours": "hours",
    "megabytes": "megabytes",
    "mib": "MiB",
    "pixels": "pixels",
    "s": "seconds",
}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+)\s*([A-Za-z]*)\s*")
_MAX_SHOWN = 100

# Bounds of a number, by their names in pydantic.
Bounds = Mapping[str, float]
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def bounds_of(metadata: Iterable[Any]) -> Bounds:
    """The bounds among the metadata of a pydantic field."""
    return {
        name: getattr(each, name)
        for each in metadata
        for name in _BOUNDS
        if getattr(each, name, None) is not None
    }


def shown(value: Any) -> str:
    """A value as a message shows it: lists and mappings, which may hold secrets, by their kind."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def message_of(error: Mapping[str, Any]) -> str:
    """The message of one error of pydantic, without the name of its class."""
    return str(error["msg"]).removeprefix("Value error, ")


def listed_problems(error: ValidationError) -> str:
    """What is wrong with the values of settings in one line, each with its key."""
    lines = []
    for line in error.errors(include_url=False):
        message = message_of(line)
        key = ".".join(map(str, line["loc"]))
        lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines)


def problem(
    error: Mapping[str, Any], *, value: str | None = None, bounds: Bounds | None = None
) -> str:
    """What is wrong with a value, and what to write.

    Args:
        error: a line of `ValidationError.errors()`.
        value: how the message names the value; default: as it is.
        bounds: of a number, if they are known; default: the one that it exceeds.
    """
    kind, given = str(error["type"]), error["input"]
    name = shown(given) if value is None else value
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "missing":
        place = error["loc"][-1]
        name = f"value {place + 1}" if isinstance(place, int) else name
        return f"{name} is missing; write it"
    choice = _choice(kind, given if value is None else None, context)
    if choice is not None:
        return f"{name} is {choice}"
    known = (
        {name: context[name] for name in _BOUNDS if name in context} if bounds is None else bounds
    )
    if kind.startswith(("int_", "float_")) or kind == "finite_number":
        noun = "whole number" if kind.startswith("int_") else "number"
        unit = _unit(error)
        of_unit = f" of {unit}" if unit else ""
        return f"{name} is not a {noun}{of_unit}; write {_number(given, unit, known, noun)}"
    if kind.startswith(("greater_than", "less_than")):
        size = "small" if kind.startswith("greater") else "large"
        return f"{name} is too {size}; write {_range(known, 'number')}"
    return message_of(error)


def _choice(kind: str, given: Any, context: Mapping[str, Any]) -> str | None:
    """What a value is not, where the type of the error alone tells it."""
    is_scalar = isinstance(given, str | int | float) and given != ""
    if kind == "literal_error":
        return f"not a choice; write {context['expected']}"
    if kind.startswith("bool_"):
        return "neither true nor false; write one of them"
    if kind == "string_type":
        return f"not text; write {f'it in quotes: {str(given)!r}' if is_scalar else 'text'}"
    if kind == "string_too_short":
        return "too short; write at least " + counted(context["min_length"], "character")
    if kind == "string_too_long":
        return "too long; write at most " + counted(context["max_length"], "character")
    if kind == "string_pattern_mismatch":
        return f"not of the form {context['pattern']}; write text that is"
    if kind in ("tuple_type", "list_type"):
        return f"not a list; write one{f', such as [{given}]' if is_scalar else ''}"
    if kind == "dict_type":
        return "not a mapping; write one, such as {name: value}"
    if kind == "too_long":
        return f"too long; write {context['max_length']} values"
    return None


def number_in_words(key: str, bounds: Bounds, noun: str) -> str:
    """The numbers that a key can have, such as "a whole number of MiB, at least 64"."""
    unit = _unit_of(key)
    of_unit = f" of {unit}" if unit else ""
    return ", ".join(filter(None, [f"a {noun}{of_unit}", _limits(bounds)]))


def _unit(error: Mapping[str, Any]) -> str | None:
    keys = [part for part in error["loc"] if isinstance(part, str)]
    return _unit_of(keys[-1]) if keys else None


def _unit_of(key: str) -> str | None:
    return _UNITS.get(key.rpartition("_")[2])


def _number(given: Any, unit: str | None, bounds: Bounds, noun: str) -> str:
    """The number that was probably meant, else the numbers that are possible."""
    if isinstance(given, float) and abs(given) < 1e15 and _is_within(round(given), bounds):
        return str(round(given))
    match = _NUMBER_AND_UNIT.fullmatch(given) if isinstance(given, str) else None
    # "2GB" is not 2 megabytes.
    has_unit = match is not None and match[2][:1].lower() == (unit or "")[:1].lower()
    if match is not None and has_unit and _is_within(int(match[1]), bounds):
        return match[1]
    return _range(bounds, noun)


def _is_within(number: float, bounds: Bounds) -> bool:
    lowest, highest = bounds.get("ge", number), bounds.get("le", number)
    return lowest <= number <= highest and bounds.get("gt", number - 1) < number < bounds.get(
        "lt", number + 1
    )


def _range(bounds: Bounds, noun: str) -> str:
    limits = _limits(bounds)
    if bounds.keys() == {"ge", "le"}:
        return limits
    return f"a {noun} of {limits}" if limits else f"a {noun}"


def _limits(bounds: Bounds) -> str:
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']:.15g} to {bounds['le']:.15g}"
    limits = [f"{_BOUNDS[name]} {bounds[name]:.15g}" for name in _BOUNDS if name in bounds]
    return " and ".join(limits)
