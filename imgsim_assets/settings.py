"""The base of all settings that are declared in YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Immutable settings whose errors suggest the key that was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            names = list(cls.model_fields)
            for key in values:
                if key not in names:
                    close = difflib.get_close_matches(str(key), names, n=1)
                    hint = f"did you mean {close[0]!r}? " if close else ""
                    raise ValueError(
                        f"unknown key {str(key)!r}: {hint}known keys are {', '.join(names)}"
                    )
        elif not isinstance(values, cls):
            first = next(iter(cls.model_fields))
            is_optional = not any(field.is_required() for field in cls.model_fields.values())
            defaults = "'{}' for the defaults, or " if is_optional else ""
            raise ValueError(
                f"{values!r} is not a mapping; write {defaults}keys such as '{first}: ...'"
            )
        return values
