"""The base of all settings that are declared in YAML."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SecretStr,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from imgsim_assets.invalid_values import bounds_of, problem

# Keys of earlier snapshots, for an error that names the present key.
_RENAMED_KEYS = {
    "allow_hosts": "allowed_hosts",
    "allow_prefixes": "allowed_url_prefixes",
    "breaker_failures": "circuit_breaker_threshold",
    "breaker_pause": "circuit_breaker_cooldown_s",
    "catalogues": "catalogs",
    "close_to_representative": "linkage",
    "commits": "retain_last",
    "connect_timeout": "connect_timeout_s",
    "false_per_million": "false_matches",
    "false_positives_per_million": "false_matches",
    "grace_hours": "min_age_hours",
    "least_items": "min_items",
    "max_drop": "max_removed_fraction",
    "max_rate_per_host": "max_requests_per_second_per_host",
    "preprocess": "resize",
    "probes": "nprobe",
    "read_timeout": "read_timeout_s",
    "refresh_after": "revalidate_after",
    "report": "evaluation",
    "representative": "canonical",
    "robots_tag": "respect_x_robots_tag",
    "robots_txt": "respect_robots_txt",
    "sample": "sample_size",
    "stream": "pipelined",
    "timeout": "timeout_s",
    "watch": "observe_schedule",
}

# Texts in a list.
Names = tuple[str, ...]


class SecretValueError(ValueError):
    """A secret is not valid. The message does not contain it."""


def _without_value(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate a secret, and raise an error from which pydantic's report omits the value."""
    try:
        return validate(value)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        location = "".join(f"{key}: " for key in first["loc"])
        raise SecretValueError(location + problem(first, value="the value")) from None


# The last annotation of a field that holds secrets: errors of everything before it omit the value.
MASKED = WrapValidator(_without_value)
# Text that no message, log, table or metadata shows: `get_secret_value()` returns it.
Secret = Annotated[SecretStr, MASKED]


def _explained(settings: type[BaseModel], values: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate settings, and raise errors that say what to write and show no secret."""
    try:
        return validate(values)
    except ValidationError as error:
        details: list[Any] = [
            {
                "type": "value_error",
                "loc": line["loc"],
                "input": _printable_input(line),
                "ctx": {"error": _explanation(settings, line)},
            }
            for line in error.errors(include_url=False)
        ]
        raise ValidationError.from_exception_data(error.title, details) from None


def _explanation(settings: type[BaseModel], line: Any) -> Exception:
    """The error of one value; that of a validator or of inner settings stays."""
    own = line.get("ctx", {}).get("error")
    if isinstance(own, Exception):
        return own
    if line["type"] == "missing" and isinstance(line["loc"][-1], str):
        return ValueError(f"the key is missing; write '{line['loc'][-1]}: ...'")
    field = settings.model_fields.get(str(line["loc"][0])) if len(line["loc"]) == 1 else None
    bounds = bounds_of(field.metadata) if field is not None else None
    return ValueError(problem(line, bounds=bounds or None))


def _printable_input(line: Any) -> Any:
    """The input of an error as its report may show it."""
    if isinstance(line.get("ctx", {}).get("error"), SecretValueError):
        return "**********"
    value = line["input"]
    if isinstance(value, Mapping):
        return dict.fromkeys(value, "...")
    return value


class Settings(BaseModel):
    """Immutable settings whose errors say what to write, and suggest the key that was meant.

    Errors contain no secret: neither the value of a field that is `MASKED`, nor mappings that may
    hold one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler.resolve_ref_schema(handler(source))
        # The reference moves outwards, so that the JSON schema still names the class.
        inner = {key: value for key, value in schema.items() if key != "ref"}
        return core_schema.no_info_wrap_validator_function(
            functools.partial(_explained, cls), inner, ref=schema.get("ref")
        )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            unknown: list[Any] = [
                {
                    "type": "value_error",
                    "loc": (str(key),),
                    "input": "...",
                    "ctx": {"error": ValueError(cls._unknown_key(str(key)))},
                }
                for key in values
                if key not in cls.model_fields
            ]
            if unknown:
                # At the key's own location, so that an error points to its line.
                raise ValidationError.from_exception_data(cls.__name__, unknown)
        elif not isinstance(values, cls):
            first = next(iter(cls.model_fields))
            is_optional = not any(field.is_required() for field in cls.model_fields.values())
            defaults = "'{}' for the defaults, or " if is_optional else ""
            raise ValueError(
                f"{values!r} is not a mapping; write {defaults}keys such as '{first}: ...'"
            )
        return values

    @classmethod
    def _unknown_key(cls, key: str) -> str:
        names = list(cls.model_fields)
        renamed = _RENAMED_KEYS.get(key)
        close = difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        if renamed in names:
            hint = f"it is now {renamed!r}; "
        return f"unknown key {key!r}: {hint}known keys are {', '.join(names)}"
