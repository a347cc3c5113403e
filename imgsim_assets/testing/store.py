"""Another store for the definitions of a project."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from imgsim_assets.components.store.resource import STORE, StoreResource


def with_store(definitions: dg.Definitions, store: str | Path) -> dg.Definitions:
    """The same definitions, which write to and read from another store.

    Args:
        definitions: of a project, such as `dg.load_from_defs_folder(...)`.
        store: path or URL.
    """
    return dg.Definitions(
        assets=definitions.assets,
        asset_checks=definitions.asset_checks,
        schedules=definitions.schedules,
        sensors=definitions.sensors,
        jobs=definitions.jobs,
        resources={**(definitions.resources or {}), STORE: StoreResource(url=str(store))},
        executor=definitions.executor,
        loggers=definitions.loggers,
    )
