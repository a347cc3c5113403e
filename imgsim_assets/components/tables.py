"""The store and its tables in Dagster: opening it, and loading a table as an asset's input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.storage.store import Store

IO_MANAGER = "imgsim_tables"


def open_store(root: Path, run_id: str | None = None) -> Store:
    """The project's store: IMGSIM_STORE, else data/store under the project's root."""
    from imgsim_assets.storage.store import Store

    return Store.open(project_root=root, run_id=run_id)


class TableIOManager(dg.ConfigurableIOManager):
    """Loads the newest committed version of an upstream asset's table.

    The parameter's annotation chooses between pl.LazyFrame (the default) and pl.DataFrame.
    `store` is a path or URL; without it the project's store is read (IMGSIM_STORE, else
    data/store under `project_root`, else under the project of the working directory).
    """

    store: str | None = None
    project_root: str | None = None

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
        from imgsim_assets.storage.store import Store

        root = Path(self.project_root) if self.project_root else None
        store = Store.open(self.store, project_root=root)
        table, commit = resolve_version(store, "/".join(context.asset_key.path))
        context.add_input_metadata({"imgsim/version": commit.version, "imgsim/store": store.url})
        names = context.asset_partition_keys if context.has_asset_partitions else []
        if names and len(names) < _partition_count(context):
            count = _partition_count(context)
            shards = [table.read(commit, shard=Shard(int(name), count)) for name in names]
            rows = pl.concat(shards).lazy()
        else:
            rows = scan_table(table, commit)
        return rows.collect() if context.dagster_type.typing_type is pl.DataFrame else rows


@lru_cache(maxsize=8)
def get_table_io_manager(root: Path) -> TableIOManager:
    """The IO manager of a project; always the same object, so that definitions can merge."""
    return TableIOManager(project_root=str(root))


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


def match_spec(name: str) -> dg.AssetSpec:
    """The match table as an external asset, for the definitions of another code location.

    That location also needs the resource: `resources={"imgsim_tables": TableIOManager(...)}`.
    """
    spec = dg.AssetSpec(dg.AssetKey(["matches", name]), group_name="matches", kinds={"parquet"})
    return spec.with_io_manager_key(IO_MANAGER)


def _path(key: Sequence[str] | str) -> list[str]:
    return key.split("/") if isinstance(key, str) else list(key)
