"""A component declared by one Settings class, with errors that point into its YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from pydantic import BaseModel

from imgsim_assets.components.cron import cron_problem
from imgsim_assets.components.project_tree import find_components, source_location
from imgsim_assets.components.translation import translate_assets, translate_spec
from imgsim_assets.components.yaml_attributes import Locate, attributes_model, resolve_settings
from imgsim_assets.errors import SettingsError
from imgsim_assets.settings import Settings

_OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s]+")
_TAG_KEY = re.compile(r"([\w.-]{1,63}/)?[\w.-]{1,63}")
_CRON_EXAMPLES = {
    "schedule": "'0 3 * * *' is every night at three",
    "observe_schedule": "'*/5 * * * *' is every five minutes",
    "audit_schedule": "'0 5 * * 0' is every Sunday at five",
}
_TAG_VALUE = re.compile(r"[\w.-]{0,63}")


class YamlComponent(dg.Component):
    """A component whose YAML attributes are exactly the fields of `settings_type`.

    In Python it is created from settings: `ImageCatalogComponent(CatalogSettings(...))`.
    """

    settings_type: ClassVar[type[Settings]]

    def __init__(self, settings: Any, resolution: dg.ResolutionContext | None = None) -> None:
        self._resolution = resolution
        self._positions = resolution.source_position_tree if resolution is not None else None
        self._locate: Locate = _dotted
        self.declared = settings

    @classmethod
    def get_model_cls(cls) -> type[BaseModel] | None:
        """The model that Dagster validates the YAML's attributes with, and documents."""
        return attributes_model(cls.settings_type)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Create the component from YAML, with templates such as `{{ env.STORE }}` resolved."""
        resolution = context.resolution_context
        given = (attributes.model_extra or {}) if attributes is not None else {}

        def locate(key: Sequence[str | int]) -> str:
            return _location(context, resolution.source_position_tree, key)

        component = cls(resolve_settings(cls.settings_type, given, resolution, locate), resolution)
        component._locate = locate
        return component

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """The spec of one of the component's assets, as the project wants it.

        Override it to change keys, groups, owners, tags or descriptions. The default applies the
        key `translation`.

        Args:
            spec: the spec as this package makes it. The new key may depend on its key, group,
                owners and tags.
        """
        translation = self.declared.translation
        if translation is None:
            return spec
        return translate_spec(spec, translation, self._resolution, self._locate)

    def asset_key(self, *path: str) -> dg.AssetKey:
        """The key of one of the component's assets, as the project wants it.

        Args:
            path: the parts of the key as this package makes it.
        """
        settings = self.declared
        spec = dg.AssetSpec(
            dg.AssetKey(path),
            group_name=path[0],
            owners=list(settings.owners),
            tags=dict(settings.tags),
        )
        return self.get_asset_spec(spec).key

    def translated(
        self, assets: Sequence[dg.AssetsDefinition], table_names: Mapping[dg.AssetKey, str]
    ) -> list[dg.AssetsDefinition]:
        """The assets as the project wants them.

        Args:
            assets: with their keys translated already, because other assets depend on them.
            table_names: the names of their tables by these keys.
        """
        return [translate_assets(each, self.get_asset_spec, table_names) for each in assets]

    def check_owners_and_tags(
        self, context: dg.ComponentLoadContext, owners: Sequence[str], tags: Mapping[str, str]
    ) -> None:
        """Raise the error of the first owner or tag that Dagster would reject."""
        for owner in owners:
            if not _OWNER.fullmatch(owner):
                raise self.error(
                    context,
                    ["owners"],
                    f"{owner!r} is not an owner; write an e-mail address or team:NAME",
                )
        for key, value in tags.items():
            if not (_TAG_KEY.fullmatch(key) and _TAG_VALUE.fullmatch(value)):
                raise self.error(
                    context,
                    ["tags", key],
                    f"{key}: {value!r} is not a tag; use at most 63 letters, digits, '_', '-' "
                    "and '.'",
                )

    def check_name(self, context: dg.ComponentLoadContext, plural: str) -> None:
        """Raise an error when several components of this type share one name.

        `plural` is what the error calls them.
        """
        name = self.declared.name
        names = [other.declared.name for other in self.sibling_components(context)]
        count = 1 + names.count(name)
        if count > 1:
            raise self.error(
                context, ["name"], f"{count} {plural} are named {name!r}; give each its own name"
            )

    def check_alone(self, context: dg.ComponentLoadContext, what: str) -> None:
        """Raise an error when a project has several components of a type that it needs once.

        `what` says what they are.
        """
        count = 1 + len(self.sibling_components(context))
        if count > 1:
            raise self.error(context, [], f"{count} components are {what}; keep one of them")

    def sibling_components(self, context: dg.ComponentLoadContext) -> list[Self]:
        """The other components of this kind in the project; a subclass is of the same kind."""
        kind: type[Any] = next(base for base in type(self).__mro__ if "settings_type" in vars(base))
        return [other for other in find_components(context, kind) if other is not self]

    def check_cron(self, context: dg.ComponentLoadContext, key: str, cron: str | None) -> None:
        """Raise an error when the value of a key is not a cron expression that fires."""
        problem = cron_problem(cron) if cron is not None else None
        if problem:
            path = key.split(".")
            raise self.error(context, path, f"{cron!r} {problem}; {_CRON_EXAMPLES[path[-1]]}")

    def check_compute(self, context: dg.ComponentLoadContext) -> None:
        """Raise an error when tasks cannot run where the declaration says."""
        problem = self.declared.compute.problem()
        if problem is not None:
            raise self.error(context, ["compute"], problem)

    def check_timezone(self, context: dg.ComponentLoadContext, timezone: str) -> None:
        """Raise an error for an unknown time zone."""
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise self.error(
                context,
                ["timezone"],
                f"{timezone!r} is not a time zone; write one such as Europe/Berlin, or UTC",
            ) from None

    def error(
        self, context: dg.ComponentLoadContext, key: Sequence[str], problem: str
    ) -> SettingsError:
        """An error with file, line and key; `problem` says what is wrong and how to fix it."""
        return SettingsError(f"{self.location(context, key)}: {problem}")

    def location(self, context: dg.ComponentLoadContext, key: Sequence[str]) -> str:
        """File, line and key, with which errors begin."""
        return _location(context, self._positions, key)


def _location(context: dg.ComponentLoadContext, positions: Any, key: Sequence[str | int]) -> str:
    return f"{source_location(context, positions, key)}: {_dotted(key)}"


def _dotted(key: Sequence[str | int]) -> str:
    return ".".join(["attributes", *(str(part) for part in key)])
