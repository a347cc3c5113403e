"""The store as a Dagster resource."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import dagster as dg
from pydantic import Field

from imgsim_assets.storage.location import absolute_url, default_url, local_folder

if TYPE_CHECKING:
    from imgsim_assets.storage.store import Store

STORE = "imgsim_store"
IO_MANAGER = "imgsim_tables"


class StoreResource(dg.ConfigurableResource):
    """The store of a project: assets write to it, and the IO manager reads from it."""

    url: str | None = Field(
        default=None,
        description="local path or fsspec URL; default: the environment variable IMGSIM_STORE, "
        "else data/store",
    )
    project_root: str | None = Field(
        default=None,
        description="folder that a relative path starts from; default: the project of the working "
        "directory",
    )

    single_writer: bool | None = Field(
        default=None,
        description="whether only one run writes at a time; default: the environment variable "
        "IMGSIM_SINGLE_WRITER, else false",
    )

    def open(self, run_id: str | None = None) -> Store:
        """Open the store.

        Args:
            run_id: the Dagster run that every commit records.
        """
        from imgsim_assets.storage.store import Store

        root = Path(self.project_root) if self.project_root else None
        return Store.open(
            self.url or default_url(),
            project_root=root,
            run_id=run_id,
            single_writer=self.single_writer,
        )

    def local_folder(self) -> Path | None:
        """The folder of the store, which need not exist.

        None for a remote store, and where only runs have the environment variable that names it.
        """
        url = self.url
        if isinstance(url, dg.EnvVar):
            url = url.get_value()
            if not url:
                return None
        root = Path(self.project_root) if self.project_root else None
        return local_folder(absolute_url(url or default_url(), root))


class TableAssetKwargs(TypedDict):
    """The resources that every asset with a table needs."""

    required_resource_keys: set[str]
    io_manager_key: str


TABLE_ASSET: TableAssetKwargs = {"required_resource_keys": {STORE}, "io_manager_key": IO_MANAGER}


def open_store(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> Store:
    """The store of a run, which must require the resource `imgsim_store`."""
    resource: StoreResource = getattr(context.resources, STORE)
    return resource.open(context.run.run_id)
