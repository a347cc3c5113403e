"""The asset `status` of a catalog: figures of the whole catalog, over all shards."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import STEP_KWARGS, code_version
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.resource import STORE, open_store

if TYPE_CHECKING:
    from imgsim_assets.storage.store import Store

VERSION = "1"
_TABLES = ("items", "rejects", "images", "embeddings")
_VERSIONS = "versions"
_SHOWN_FAILURES = 20
_SHOWN_HOSTS = 10


def status_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """How many images are requested, fetched, failed and embedded; the top hosts and failures."""
    name = catalog.name

    @dg.asset(
        **catalog.asset_kwargs("status", ["report"]),
        **STEP_KWARGS,
        required_resource_keys={STORE},
        deps=[
            dg.AssetDep(catalog.key(asset), partition_mapping=dg.AllPartitionMapping())
            for asset in ("images", "embeddings")
        ],
        description=f"The status of {name} over all shards: its items and how many are usable, "
        "its images that were requested, fetched, failed and embedded, the hosts with most "
        "failures, and the failures to look at first. "
        f"`imgsim failures {name} --out failed.csv` writes all of them.",
        code_version=code_version(VERSION),
    )
    @retry_faults
    def status(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.metadata import last_metadata

        store = open_store(context)
        versions = _versions(store, name)
        metadata = last_metadata(context)
        if metadata.get(_VERSIONS) != dg.MetadataValue.json(versions):
            metadata = {**_describe(store, name), _VERSIONS: dg.MetadataValue.json(versions)}
        return dg.MaterializeResult(
            metadata=metadata, data_version=dg.DataVersion(code_version("", versions))
        )

    return status


def _versions(store: "Store", name: str) -> dict[str, int]:
    commits = {table: store.table(f"{name}/{table}").latest() for table in _TABLES}
    return {table: commit.version for table, commit in commits.items() if commit is not None}


def _describe(store: "Store", name: str) -> dict[str, Any]:
    from imgsim_assets.components.metadata import counts_table, preview
    from imgsim_assets.pipeline.failures import (
        host_counts,
        most_important,
        read_failures,
        shown_columns,
    )
    from imgsim_assets.pipeline.status import catalog_status

    status = catalog_status(store, name)
    fetched = status.images or 0  # a damaged ledger raises
    failures = read_failures(store, name)
    failed_fetches = sum(status.fetch_failures.values())
    described: dict[str, Any] = {
        "items": status.items,
        "usable_items": status.usable_items,
        "requested": fetched + failed_fetches,
        "fetched": fetched,
        "failed": failed_fetches,
        "retryable": status.retryable,
        "embedded": status.vectors,
        "undecodable": sum(status.failures.values()) - failed_fetches,
        "rejected_rows": status.rejects,
        "rejected_images": status.rejected_images,
        "statuses": counts_table({"ok": fetched, **status.fetch_failures}, "status"),
        "top_hosts": preview(host_counts(store, name, _SHOWN_HOSTS), _SHOWN_HOSTS),
    }
    if failures.height:
        columns = [
            "id",
            "image",
            "url",
            "stage",
            "status",
            "next_retry_at",
            "detail",
            "file",
            "line",
        ]
        shown = shown_columns(most_important(failures, _SHOWN_FAILURES), columns)
        described["failures"] = preview(shown, _SHOWN_FAILURES)
        described["all_failures"] = f"imgsim failures {name} --out failed.csv"
    return described
