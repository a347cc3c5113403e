"""How a project names and groups the assets: translations of their specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from imgsim_assets.components.automation import TAG
from imgsim_assets.components.tables import TABLE
from imgsim_assets.components.yaml_attributes import Locate, resolve_settings
from imgsim_assets.errors import SettingsError
from imgsim_assets.pipeline.settings import TranslationSettings

Translate = Callable[[dg.AssetSpec], dg.AssetSpec]


def translate_spec(
    spec: dg.AssetSpec,
    translation: Mapping[str, Any] | str,
    resolution: dg.ResolutionContext | None,
    locate: Locate,
) -> dg.AssetSpec:
    """Apply the key `translation` of a YAML file to an asset.

    Args:
        spec: the asset, which templates see as `spec`.
        translation: what changes; or a template that gives that, or a whole spec.
        resolution: what templates refer to; without it there are none.
        locate: names the place of a key in the file.

    Raises:
        SettingsError: when the translation is not valid.
    """
    if resolution is None:
        changes = TranslationSettings.model_validate(translation)
        return _changed(spec, changes)
    scope = resolution.with_scope(spec=spec)
    if isinstance(translation, str):
        translation = scope.resolve_value(translation, as_type=dict)
        if isinstance(translation, dg.AssetSpec):
            return translation
        if not isinstance(translation, Mapping):
            raise SettingsError(
                f"{locate(['translation'])}: the template gives {type(translation).__name__}; it "
                "must give an AssetSpec, or a mapping with keys such as key_prefix"
            )

    def locate_below(key: Any) -> str:
        return locate(["translation", *key])

    return _changed(spec, resolve_settings(TranslationSettings, translation, scope, locate_below))


def _changed(spec: dg.AssetSpec, changes: TranslationSettings) -> dg.AssetSpec:
    key = dg.AssetKey.from_user_string(changes.key) if changes.key else spec.key
    if changes.key_prefix is not None:
        key = key.with_prefix(changes.key_prefix)
    given = changes.model_dump(include={"group_name", "description", "owners"}, exclude_none=True)
    changed = spec.replace_attributes(key=key, **given)
    return changed.merge_attributes(
        tags=changes.tags, metadata=changes.metadata, kinds=set(changes.kinds)
    )


def translate_assets(
    assets: dg.AssetsDefinition, translate: Translate, table_names: Mapping[dg.AssetKey, str]
) -> dg.AssetsDefinition:
    """Assets whose keys are translated already, with the rest of their specs translated.

    Args:
        assets: the assets.
        translate: the translation of the project.
        table_names: by translated key, the name of the asset's table, which is its key otherwise.
    """

    def translated(spec: dg.AssetSpec) -> dg.AssetSpec:
        table = table_names[spec.key]
        default = spec.replace_attributes(key=dg.AssetKey(table.split("/")))
        changed = translate(default)
        if changed.key != spec.key:
            raise SettingsError(
                f"the translation of {table} gives it the key {changed.key.to_user_string()} now "
                f"and {spec.key.to_user_string()} before; a key may depend on the spec's key, "
                "group_name, owners and tags only"
            )
        kept = {TAG: spec.tags[TAG]} if TAG in spec.tags else {}
        return changed.merge_attributes(metadata={TABLE: table}, tags=kept)

    return assets.map_asset_specs(translated)
