"""A component declared by one Settings class, with errors that point into its YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string
from dagster_shared.yaml_utils.source_position import SourcePositionTree
from pydantic import BaseModel

from imgsim_assets.errors import SettingsError
from imgsim_assets.settings import Settings

_OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s]+")
_TAG_KEY = re.compile(r"([\w.-]{1,63}/)?[\w.-]{1,63}")
_CRON_EXAMPLES = {
    "schedule": "'0 3 * * *' is every night at three",
    "watch": "'*/5 * * * *' is every five minutes",
}
_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_TAG_VALUE = re.compile(r"[\w.-]{0,63}")


class YamlComponent(dg.Component):
    """A component whose attributes are exactly the fields of `settings_type`.

    In Python it is made from settings: `ImageCatalogComponent(CatalogSettings(...))`.
    """

    settings_type: ClassVar[type[Settings]]

    def __init__(self, settings: Any, positions: SourcePositionTree | None = None) -> None:
        self._positions = positions
        self.declared = settings

    @classmethod
    def get_model_cls(cls) -> type[BaseModel] | None:
        """What Dagster checks the YAML's attributes against, and documents."""
        return cls.settings_type

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Made from YAML: templates in text, such as `{{ env.STORE }}`, are filled in first."""
        given = attributes.model_dump(exclude_unset=True) if attributes is not None else {}
        resolution = context.resolution_context.at_path("attributes")
        filled = _filled(given, resolution)
        return cls(cls.settings_type.model_validate(filled), resolution.source_position_tree)

    def check_people_and_tags(
        self, context: dg.ComponentLoadContext, owners: Sequence[str], tags: Mapping[str, str]
    ) -> None:
        """Raise the error of the first owner or tag that Dagster would not take."""
        for owner in owners:
            if not _OWNER.fullmatch(owner):
                raise self.error(
                    context,
                    ["owners"],
                    f"{owner!r} is no owner; write an e-mail address or team:NAME",
                )
        for key, value in tags.items():
            if not (_TAG_KEY.fullmatch(key) and _TAG_VALUE.fullmatch(value)):
                raise self.error(
                    context,
                    ["tags", key],
                    f"{key}: {value!r} is no tag; use letters, digits, '_', '-' and '.', at most "
                    "63 of them",
                )

    def check_name(self, context: dg.ComponentLoadContext, called: str) -> None:
        """Raise an error where several components of this kind (`called`) have one name."""
        name = self.declared.name
        named = [other for other in self.all_like_it(context) if other.declared.name == name]
        if len(named) > 1:
            raise self.error(
                context,
                ["name"],
                f"{len(named)} {called} are named {name!r}; give each its own name",
            )

    def all_like_it(self, context: dg.ComponentLoadContext) -> list[Self]:
        """All components of this kind in the project, this one among them."""
        return list(context.component_tree.get_all_components(type(self)))

    def check_cron(self, context: dg.ComponentLoadContext, key: str, cron: str | None) -> None:
        """Raise an error for a key that should hold a cron expression and holds none."""
        problem = _problem_of_cron(cron) if cron is not None else None
        if problem:
            raise self.error(context, [key], f"{cron!r} {problem}; {_CRON_EXAMPLES[key]}")

    def check_timezone(self, context: dg.ComponentLoadContext, timezone: str) -> None:
        """Raise an error for a time zone that is not known here."""
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise self.error(
                context,
                ["timezone"],
                f"{timezone!r} is no time zone; write one as in Europe/Berlin, or UTC",
            ) from None

    def error(
        self, context: dg.ComponentLoadContext, key: Sequence[str], problem: str
    ) -> SettingsError:
        """An error that names the file, the line, the key, and (in `problem`) the mend."""
        return SettingsError(f"{self.place(context, key)}: {problem}")

    def place(self, context: dg.ComponentLoadContext, key: Sequence[str]) -> str:
        """File, line and key, as errors begin with them."""
        dotted = ".".join(["attributes", *key])
        if self._positions is None:
            return f"{context.component_path.file_path}: {dotted}"
        position, _ = self._positions.lookup_closest_and_path(["attributes", *key], trace=None)
        file = _relative(Path(position.filename), context.project_root)
        return f"{file}:{position.start.line}: {dotted}"


def _problem_of_cron(cron: str) -> str | None:
    """What is wrong with a cron expression; None if it is one that Dagster can follow."""
    fields = cron.split()
    if len(fields) > 5:
        return f"has {len(fields)} fields; write minute, hour, day, month and weekday"
    if is_valid_cron_string(cron) and _ever_fires(cron):
        return None
    if len(fields) == 5 and is_valid_cron_string(" ".join([*fields[:2], "*", *fields[3:]])):
        return "names a day that never comes"
    return "is no cron expression"


def _ever_fires(cron: str) -> bool:
    try:
        next(iter(cron_string_iterator(_SOME_DAY, cron, "UTC")))
    except ValueError:
        return False
    return True


def _filled(value: Any, resolution: dg.ResolutionContext) -> Any:
    """The value with its templates filled in; text without one stays as it is.

    Dagster's own resolution reads all text as Python literals: a version '1' would become 1.
    """
    if isinstance(value, Mapping):
        return {key: _filled(inner, resolution) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, resolution) for inner in value]
    if isinstance(value, str) and "{{" in value:
        return resolution.resolve_value(value)
    return value


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
