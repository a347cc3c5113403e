"""The catalogs of a project, for components that are declared about several of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import dagster as dg

from imgsim_assets.components.image_catalog.component import ImageCatalogComponent
from imgsim_assets.pipeline.settings import CatalogSettings


def known_catalogs(context: dg.ComponentLoadContext) -> dict[str, CatalogSettings]:
    """What is declared about every catalog of the project, by name."""
    components = context.component_tree.get_all_components(ImageCatalogComponent)
    return {component.settings.name: component.settings for component in components}


def unknown(name: str, known: Iterable[str]) -> str:
    """The problem with the name of a catalog that there is none of."""
    listed = sorted(known)
    close = difflib.get_close_matches(name, listed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no catalog {name!r}; {hint}declared catalogs: {', '.join(listed) or 'none'}"


def reporting(names: Iterable[str], known: Mapping[str, CatalogSettings]) -> list[str]:
    """Those of some catalogs that measure their encoder: what `threshold: auto` goes by."""
    return [name for name in names if name in known and known[name].report is not None]


def no_report(names: Iterable[str]) -> str:
    """The problem with `threshold: auto` where no catalog measures its encoder."""
    return (
        f"auto needs a report about the encoder; set 'report: {{}}' of {' or '.join(names)}, or "
        "give a number"
    )


def incomparable(one: CatalogSettings, other: CatalogSettings) -> str | None:
    """The problem with two catalogs whose vectors cannot be compared; None if they can."""
    if one.encoder.identity == other.encoder.identity:
        return None
    return (
        f"{one.name} is embedded by {one.encoder.describe()} and {other.name} by "
        f"{other.encoder.describe()}, and their vectors cannot be compared; give both catalogs "
        "the same 'encoder'"
    )
