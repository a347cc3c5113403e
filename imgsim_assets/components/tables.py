"""The tables of the store in Dagster: loading one as an asset's input, in any code location."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from imgsim_assets.components.store.resource import IO_MANAGER, STORE, StoreResource

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.storage.store import Store

# The metadata that names an asset's table where the asset key does not.
TABLE = "imgsim/table"


def table_name(key: dg.AssetKey, metadata: Mapping[str, Any]) -> str:
    """The table of an asset: its key, unless the project translated that."""
    return str(metadata.get(TABLE) or key.to_user_string())


class TableLoader(dg.IOManager):
    """Loads the newest committed version of an upstream asset's table.

    The annotation of the parameter, or `python_type`, chooses between pl.LazyFrame (the default)
    and pl.DataFrame.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Refuse: the assets of this package commit their tables themselves."""
        raise dg.DagsterInvariantViolationError(
            f"{context.asset_key.to_user_string()}: '{IO_MANAGER}' only reads; return the value "
            "through another IO manager, or commit it and return a MaterializeResult"
        )

    def load_input(self, context: dg.InputContext) -> pl.LazyFrame | pl.DataFrame:
        """The upstream table, as far as the mapped partitions go."""
        import polars as pl

        from imgsim_assets.storage.reader import resolve_version
        from imgsim_assets.storage.scan import scan_table
        from imgsim_assets.storage.shards import Shard

        table, commit = resolve_version(self._store, _table_name(context))
        context.add_input_metadata(
            {"imgsim/version": commit.version, "imgsim/store": self._store.url}
        )
        is_eager = context.dagster_type.typing_type is pl.DataFrame
        names = context.asset_partition_keys if context.has_asset_partitions else []
        if names and len(names) < _partition_count(context):
            count = _partition_count(context)
            shards = [table.read(commit, shard=Shard(int(name), count)) for name in names]
            rows = pl.concat(shards)
            return rows if is_eager else rows.lazy()
        # All columns are read, so that checksums are verified; a scan does not read all bytes.
        return table.read(commit) if is_eager else scan_table(table, commit)


@dg.io_manager(required_resource_keys={STORE}, description="Loads tables of the project's store.")
def table_io_manager(context: dg.InitResourceContext) -> TableLoader:
    """The IO manager of a project: it reads from the store that the project's assets write to."""
    store: StoreResource = getattr(context.resources, STORE)
    return TableLoader(store.open())


class TableIOManager(dg.ConfigurableIOManagerFactory):
    """The IO manager of another code location, which reads the tables of a store."""

    store: str | None = Field(
        default=None,
        description="path or URL of the store; default: the store of the project",
    )
    project_root: str | None = Field(
        default=None,
        description="root of the project; default: the project of the working directory",
    )

    def create_io_manager(self, context: dg.InitResourceContext) -> TableLoader:
        """The IO manager over the opened store."""
        from imgsim_assets.storage.store import Store

        root = Path(self.project_root) if self.project_root else None
        return TableLoader(Store.open(self.store, project_root=root))


def _table_name(context: dg.InputContext) -> str:
    output = context.upstream_output
    metadata = output.definition_metadata if output is not None else None
    return table_name(context.asset_key, metadata or {})


def _partition_count(context: dg.InputContext) -> int:
    return len(context.asset_partitions_def.get_partition_keys())


def table_input(key: Sequence[str] | str) -> dg.AssetIn:
    """An asset's parameter that receives an upstream table, such as "products/embeddings"."""
    return dg.AssetIn(key=dg.AssetKey(_path(key)), input_manager_key=IO_MANAGER)


def match_input(name: str) -> dg.AssetIn:
    """An asset's parameter that receives the newest match table of a pair.

    Used as `@dg.asset(ins={"matches": match_input("products__suppliers")})`.
    """
    return table_input(["matches", name])


def table_spec(
    table: str, *, key: Sequence[str] | str | None = None, shards: int | None = None
) -> dg.AssetSpec:
    """A table as an external asset, for the definitions of another code location.

    That location also needs the resource: `resources={"imgsim_tables": TableIOManager(...)}`.

    Args:
        table: such as "products/embeddings" or "matches/products__suppliers".
        key: the asset's key, if the project translates its keys; default: the table's name.
        shards: the number of partitions of a sharded table (items have none; images and
            embeddings have the catalog's `shards`), for a consumer with the same partitions.
    """
    from imgsim_assets.storage.shards import shard_names

    path = _path(key if key is not None else table)
    spec = dg.AssetSpec(
        dg.AssetKey(path),
        group_name=table.split("/")[0],
        kinds={"parquet"},
        metadata={TABLE: table},
        partitions_def=dg.StaticPartitionsDefinition(shard_names(shards)) if shards else None,
    )
    return spec.with_io_manager_key(IO_MANAGER)


def match_spec(name: str) -> dg.AssetSpec:
    """The match table of a pair as an external asset; see `table_spec`."""
    return table_spec(f"matches/{name}")


def _path(key: Sequence[str] | str) -> list[str]:
    return key.split("/") if isinstance(key, str) else list(key)
