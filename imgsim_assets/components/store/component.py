"""The component `imgsim_assets.StoreComponent`: where a project's tables and images are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.project_tree import find_components, other_definitions
from imgsim_assets.components.store.resource import IO_MANAGER, STORE, StoreResource
from imgsim_assets.components.store.scaffolder import StoreScaffolder
from imgsim_assets.components.tables import table_io_manager
from imgsim_assets.pipeline.settings import StoreSettings
from imgsim_assets.settings import Settings


@dg.scaffold_with(StoreScaffolder)
class StoreComponent(YamlComponent):
    """The store of a project: one place for all tables and images."""

    settings_type: ClassVar[type[Settings]] = StoreSettings

    @property
    def settings(self) -> StoreSettings:
        """The store as declared."""
        settings: StoreSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The resource `imgsim_store`, and the IO manager over it."""
        self.check_alone(context, "a StoreComponent")
        store = self.resource(context.project_root)
        return dg.Definitions(resources={**default_resources(context), STORE: store})

    def resource(self, root: Path) -> StoreResource:
        """The store as a resource.

        Args:
            root: the project's root.
        """
        return StoreResource(
            url=self.settings.url,
            project_root=str(root),
            single_writer=self.settings.single_writer,
        )


def default_resources(context: dg.ComponentLoadContext) -> dict[str, Any]:
    """The resources of this package that the project does not declare itself.

    They are always the same objects, so that the definitions of several components can be merged.
    """
    declared = {key for other in other_definitions(context) for key in other.resources or {}}
    if find_components(context, StoreComponent):
        declared.add(STORE)
    resources = {STORE: _default_store(context.project_root), IO_MANAGER: table_io_manager}
    return {key: resource for key, resource in resources.items() if key not in declared}


def local_store(context: dg.ComponentLoadContext) -> Path | None:
    """The folder of the project's store; None for a remote store and one that runs find."""
    resource: Any = _default_store(context.project_root)
    for other in other_definitions(context):
        resource = (other.resources or {}).get(STORE, resource)
    for component in find_components(context, StoreComponent):
        resource = component.resource(context.project_root)
    return resource.local_folder() if isinstance(resource, StoreResource) else None


@lru_cache(maxsize=64)
def _default_store(root: Path) -> StoreResource:
    return StoreResource(project_root=str(root))
