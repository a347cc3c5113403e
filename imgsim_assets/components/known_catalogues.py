"""The catalogues of a project, for components that are declared about several of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import dagster as dg

from imgsim_assets.components.catalogue_settings import CatalogueSettings
from imgsim_assets.components.image_catalogue import ImageCatalogue


def known_catalogues(context: dg.ComponentLoadContext) -> dict[str, CatalogueSettings]:
    """What is declared about every catalogue of the project, by name."""
    components = context.component_tree.get_all_components(ImageCatalogue)
    return {component.settings.name: component.settings for component in components}


def unknown(name: str, known: Iterable[str]) -> str:
    """The problem with the name of a catalogue that there is none of."""
    listed = sorted(known)
    close = difflib.get_close_matches(name, listed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"there is no catalogue {name!r}; {hint}declared catalogues: {', '.join(listed) or 'none'}"
    )


def reporting(names: Iterable[str], known: Mapping[str, CatalogueSettings]) -> list[str]:
    """Those of some catalogues that measure their encoder: what `threshold: auto` goes by."""
    return [name for name in names if name in known and known[name].report is not None]


def no_report(names: Iterable[str]) -> str:
    """The problem with `threshold: auto` where no catalogue measures its encoder."""
    return (
        f"auto needs a report about the encoder; set 'report: {{}}' of {' or '.join(names)}, or "
        "give a number"
    )


def incomparable(one: CatalogueSettings, other: CatalogueSettings) -> str | None:
    """The problem with two catalogues whose vectors cannot be compared; None if they can."""
    if one.encoder.identity == other.encoder.identity:
        return None
    return (
        f"{one.name} is embedded by {one.encoder.describe()} and {other.name} by "
        f"{other.encoder.describe()}, and their vectors cannot be compared; give both catalogues "
        "the same 'encoder'"
    )
