"""The base of all settings that are declared in YAML."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

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
    "false_per_million": "false_positives_per_million",
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
                    renamed = _RENAMED_KEYS.get(str(key))
                    close = difflib.get_close_matches(str(key), names, n=1)
                    hint = f"did you mean {close[0]!r}? " if close else ""
                    if renamed in names:
                        hint = f"it is now {renamed!r}; "
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
