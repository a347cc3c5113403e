"""The store of a project whose Python declares it, for commands."""

from __future__ import annotations

from pathlib import Path

from imgsim_assets.components.load_project import load_project
from imgsim_assets.components.store.resource import STORE, StoreResource
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.store import Store


def store_of_project(root: Path) -> Store:
    """Load the definitions of a project, and open the store that they declare.

    Raises:
        SettingsError: when the project cannot be loaded.
        StoreError: when the resource `imgsim_store` is not a StoreResource.
    """
    resource = (load_project(root).resources or {}).get(STORE)
    if not isinstance(resource, StoreResource):
        raise StoreError(
            f"the resource {STORE} of {root} is no StoreResource; name the store with --store"
        )
    opened: StoreResource = resource.process_config_and_initialize()
    return opened.open()
