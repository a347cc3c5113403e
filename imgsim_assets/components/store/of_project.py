"""The store of a project whose Python declares it, for commands."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg

from imgsim_assets.components.store.resource import STORE, StoreResource
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.store import Store


def store_of_project(root: Path) -> Store:
    """Load the definitions of a project, and open the store that they declare.

    Raises:
        StoreError: when the resource `imgsim_store` is not a StoreResource.
    """
    sys.path[:0] = [str(root), str(root / "src")]
    definitions = dg.load_from_defs_folder(path_within_project=root)
    resource = (definitions.resources or {}).get(STORE)
    if not isinstance(resource, StoreResource):
        raise StoreError(
            f"the resource {STORE} of {root} is no StoreResource; name the store with --store"
        )
    opened: StoreResource = resource.process_config_and_initialize()
    return opened.open()
