"""The list of ignored images of a result: an external asset, observed by what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from imgsim_assets.components.observed_input import Observation, ObservedInput, warn_if_missing
from imgsim_assets.similarity.settings import IgnoreSettings

IGNORE_LIST = "ignore_list"
_INTERVAL_S = 60


def ignore_list(
    key: dg.AssetKey, group: str, settings: IgnoreSettings, root: Path
) -> ObservedInput:
    """The list as an external asset."""
    warn_if_missing(root / settings.list, f"ignore of {key.to_user_string()}")
    spec = dg.AssetSpec(
        key,
        group_name=group,
        kinds={"file"},
        description=f"`{settings.list}`: images that are left out of a comparison. Observed by the "
        "images that it names, never materialized.",
        metadata={"path": settings.list},
    )

    def look(_: Any) -> Observation:
        from imgsim_assets.similarity.ignored import read_ignore_list

        return Observation(read_ignore_list(settings.list, root).digest, {})

    return ObservedInput(spec, look, f"{settings.list} names the same images", _INTERVAL_S)
