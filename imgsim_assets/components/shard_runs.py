"""Recording what a run did with its shards, each as the materialization of its partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import dagster as dg

from imgsim_assets.components.retries import is_fault
from imgsim_assets.errors import BusyError, SettingsError
from imgsim_assets.storage.shards import Shard

if TYPE_CHECKING:
    from imgsim_assets.pipeline.shards import ShardReports


# How often, and for how long, a step leaves a shard to the run that is at work on it: the first
# wait is short, each one twice as long as the one before.
_MAX_WAITS = 30
_FIRST_WAIT_SECONDS = 4
_MAX_WAIT_SECONDS = 60
# Keys of a shard's metadata.
_SHARD_DATA_VERSION = "shard_data_version"
_VERSION = "version"
# More than the materializations of all shards while a step is tried again.
_MAX_RECORDS = 1000


def wait_seconds(retry_number: int) -> int:
    """Seconds that a step waits after its first attempt (0) or a retry (1, 2, ...)."""
    return min(_MAX_WAIT_SECONDS, _FIRST_WAIT_SECONDS << min(retry_number, 4))


class ShardReport(Protocol):
    """What every stage reports of a shard."""

    @property
    def shard(self) -> str:
        """The partition key."""

    @property
    def data_version(self) -> str:
        """A digest of what later stages depend on."""

    @property
    def changed(self) -> bool:
        """Whether the stage committed anything for the shard."""


R = TypeVar("R", bound=ShardReport)


def shards_of_run(context: dg.AssetExecutionContext, shard_count: int) -> list[Shard]:
    """The shards of a run's partitions, in order.

    Raises:
        SettingsError: the run has neither a partition nor a range of them.
    """
    if not (context.has_partition_key or context.has_partition_key_range):
        raise SettingsError(
            f"{context.asset_key.to_user_string()} has partitions, and this run of "
            f"{context.job_name} names none; launch the job {context.asset_key.path[0]}_refresh, "
            f"which takes all shards, or name a partition or a range of partitions"
        )
    return [Shard(int(name), shard_count) for name in sorted(context.partition_keys)]


def waits_in_place(context: dg.AssetExecutionContext) -> bool:
    """Whether a step waits for another run's shard with its pool slot, after many retries."""
    return bool(context.retry_number >= _MAX_WAITS)


def publish(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    reports: ShardReports[R],
    describe: Callable[[R], Mapping[str, Any]],
) -> None:
    """Attach each shard's metadata and the run's data version to its materialization.

    Dagster keeps one data version for all shards that a run takes; each shard's own is in its
    metadata. A step whose other shards are done, while another run is at work on some, is tried
    again later. When a shard failed, the good ones are recorded as materialized before the run
    fails: Dagster itself records nothing of a step that fails. The metadata of a shard that an
    earlier attempt of the step committed are those of that attempt.
    """
    earlier = _recorded_by_run(context, key) if context.retry_number else {}

    def metadata(report: R) -> dict[str, Any]:
        described = {**describe(report), _SHARD_DATA_VERSION: report.data_version}
        recorded = earlier.get(report.shard, {})
        version = recorded.get(_SHARD_DATA_VERSION)
        if report.changed or version is None or version.value != report.data_version:
            return described
        return {**recorded, _VERSION: described[_VERSION]}

    busy = {shard for shard, error in reports.failed.items() if isinstance(error, BusyError)}
    if busy and busy == set(reports.failed):
        seconds = wait_seconds(context.retry_number)
        changed = [report for report in reports.succeeded if report.changed]
        _record_succeeded(context, key, changed, metadata)
        context.log.info(
            f"another run is working on {key.to_user_string()} {', '.join(sorted(busy))}; this "
            f"step gives its pool slot back and tries again in {seconds} seconds"
        )
        raise dg.RetryRequested(max_retries=_MAX_WAITS, seconds_to_wait=seconds)
    if reports.failed:
        _record_succeeded(context, key, reports.succeeded, metadata)
        _fail(context, reports.failed)
    for report in reports.succeeded:
        context.add_asset_metadata(metadata(report), asset_key=key, partition_key=report.shard)
    context.set_data_version(key, dg.DataVersion(_joint_version(reports.succeeded)))


def _joint_version(reports: Sequence[ShardReport]) -> str:
    import polars as pl

    from imgsim_assets.storage.digest import rows_digest

    if len(reports) == 1:
        return reports[0].data_version
    versions = [(report.shard, report.data_version) for report in reports]
    return rows_digest(pl.DataFrame(versions, schema=["shard", "version"], orient="row"))


def _recorded_by_run(
    context: dg.AssetExecutionContext, key: dg.AssetKey
) -> dict[str, Mapping[str, dg.MetadataValue]]:
    """The metadata of the newest materialization of each shard that the run has recorded."""
    (run,) = context.instance.get_run_records(dg.RunsFilter(run_ids=[context.run.run_id]))
    since_start = dg.AssetRecordsFilter(
        asset_key=key,
        asset_partitions=list(context.partition_keys),
        after_timestamp=run.create_timestamp.timestamp(),
    )
    found = context.instance.fetch_materializations(since_start, limit=_MAX_RECORDS)
    return {
        str(record.partition_key): record.asset_materialization.metadata
        for record in reversed(found.records)
        if record.run_id == context.run.run_id and record.asset_materialization is not None
    }


def _record_succeeded(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    reports: Sequence[R],
    metadata: Callable[[R], dict[str, Any]],
) -> None:
    code_version = context.assets_def.code_versions_by_key[key]
    for report in reports:
        tags = {"dagster/data_version": report.data_version}
        if code_version is not None:
            tags["dagster/code_version"] = code_version
        context.log_event(
            dg.AssetMaterialization(
                key, partition=report.shard, metadata=metadata(report), tags=tags
            )
        )


def _fail(context: dg.AssetExecutionContext, errors: Mapping[str, Exception]) -> None:
    first = next(iter(errors.values()))
    if len(context.partition_keys) == 1:
        raise first
    raise dg.Failure(
        f"{len(errors)} of {len(context.partition_keys)} shards failed ({', '.join(errors)}), the "
        f"first with: {first}",
        metadata={"failed_shards": dg.MetadataValue.json(sorted(errors))},
        allow_retries=any(map(is_fault, errors.values())),
    ) from first
