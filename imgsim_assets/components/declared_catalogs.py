"""The catalogs of a project, for components that compare several of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import dagster as dg

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.ignore_list import IGNORE_LIST, ignore_list
from imgsim_assets.components.image_catalog.component import ImageCatalogComponent
from imgsim_assets.components.observed_input import ObservedInput
from imgsim_assets.components.project_tree import find_components
from imgsim_assets.components.reviews import DeclaredReviews
from imgsim_assets.encoders.settings import EncoderSettings, needs_measuring
from imgsim_assets.pipeline.settings import CatalogSettings


class ComparingComponent(YamlComponent):
    """A component that compares the items of declared catalogs."""

    def check_catalogs(
        self, context: dg.ComponentLoadContext, named: Iterable[tuple[str, str]]
    ) -> None:
        """Raise the error of the first catalog that is not declared or not comparable.

        Args:
            context: the load context.
            named: YAML key and name of each catalog.
        """
        declared = {
            name: component.settings for name, component in declared_catalogs(context).items()
        }
        first: CatalogSettings | None = None
        for key, name in named:
            if name not in declared:
                raise self.error(context, [key], _unknown_catalog_error(name, declared))
            first = first or declared[name]
            if problem := _encoder_mismatch_error(first, declared[name]):
                raise self.error(context, [key], problem)

    def catalogs_with_evaluation(
        self, context: dg.ComponentLoadContext, names: Sequence[str]
    ) -> list[str]:
        """The catalogs whose declared evaluation decides the threshold, where it is measured.

        A catalog without an evaluation is measured by the step that needs its threshold, and so
        are catalogs that are compared in all orientations, which an evaluation does not do.
        """
        if self.declared.orientations:
            return []
        declared = declared_catalogs(context)
        return [
            name
            for name in dict.fromkeys(names)
            if declared[name].settings.evaluation is not None
            and needs_measuring(self.declared.threshold, declared[name].settings.encoder)
        ]

    def encoders(
        self, context: dg.ComponentLoadContext, names: Sequence[str]
    ) -> dict[str, EncoderSettings]:
        """The encoders of catalogs by name, as declared, with their weights files located."""
        declared, root = declared_catalogs(context), context.project_root
        return {name: declared[name].settings.encoder.with_absolute_weights(root) for name in names}

    def observed_inputs(
        self,
        context: dg.ComponentLoadContext,
        path: tuple[str, str],
        reviews: DeclaredReviews | None,
    ) -> tuple[list[ObservedInput], dict[dg.AssetKey, str]]:
        """The ignore list and the decisions of a result, and the names of their tables by key.

        Args:
            context: the load context.
            path: the parts of the key of the result, before a translation.
            reviews: the declared file of decisions.
        """
        settings, group = self.declared, path[0]
        inputs: list[ObservedInput] = []
        table_names: dict[dg.AssetKey, str] = {}
        if settings.ignore is not None:
            key = self.asset_key(*path, IGNORE_LIST)
            table_names[key] = "/".join((*path, IGNORE_LIST))
            inputs.append(ignore_list(key, group, settings.ignore, context.project_root))
        if reviews is not None:
            key = self.asset_key(*reviews.path)
            table_names[key] = "/".join(reviews.path)
            inputs.append(reviews.observed(key, group, settings))
        return inputs, table_names

    def project_keys(self, context: dg.ComponentLoadContext) -> Callable[..., dg.AssetKey]:
        """The keys, in the project, of this component's assets and those of all catalogs."""
        declared = declared_catalogs(context)

        def project_key(name: str, asset: str) -> dg.AssetKey:
            owner: YamlComponent = declared.get(name, self)
            return owner.asset_key(name, asset)

        return project_key


def declared_catalogs(context: dg.ComponentLoadContext) -> dict[str, ImageCatalogComponent]:
    """Every catalog of the project, by name."""
    components = find_components(context, ImageCatalogComponent)
    return {component.settings.name: component for component in components}


def _unknown_catalog_error(name: str, declared: Mapping[str, CatalogSettings]) -> str:
    names = sorted(declared)
    similar = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    return f"there is no catalog {name!r}; {hint}declared catalogs: {', '.join(names) or 'none'}"


def _encoder_mismatch_error(first: CatalogSettings, other: CatalogSettings) -> str | None:
    if first.encoder.identity == other.encoder.identity:
        return None
    return (
        f"{first.name} is embedded by {first.encoder.describe()} and {other.name} by "
        f"{other.encoder.describe()}, and their vectors cannot be compared; give both catalogs "
        "the same 'encoder'"
    )
