"""Running a stage over the shards of one Dagster run, so that a bad shard costs itself only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg
import polars as pl

from imgsim_assets.errors import EncoderError, SettingsError
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.shards import Shard


class ShardReport(Protocol):
    """What every stage reports of a shard."""

    @property
    def shard(self) -> str:
        """The partition key."""

    @property
    def data_version(self) -> str:
        """A digest of what later stages depend on."""


R = TypeVar("R", bound=ShardReport)


@dataclass(frozen=True)
class ShardRun(Generic[R]):
    """The reports of the shards that succeeded, and what the others failed with."""

    reports: list[R]
    failures: dict[str, Exception]


def run_shards(
    context: dg.AssetExecutionContext, count: int, run: Callable[[Shard], R]
) -> ShardRun[R]:
    """Run a stage for every shard of the Dagster run, going on after a shard that fails."""
    outcome: ShardRun[R] = ShardRun([], {})
    for name in sorted(context.partition_keys):
        try:
            outcome.reports.append(run(Shard(int(name), count)))
        except (EncoderError, SettingsError):
            raise  # the same for every shard
        except Exception as error:
            context.log.exception(f"shard {name} failed")
            outcome.failures[name] = error
    return outcome


def publish(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    outcome: ShardRun[R],
    describe: Callable[[R], Mapping[str, Any]],
) -> None:
    """Attach each shard's metadata and the run's data version to its materialization.

    Dagster keeps one data version for all shards that a run takes; each shard's own is in its
    metadata. When a shard failed, the good ones are recorded as materialized before the run
    fails: Dagster itself records none of a step that fails.
    """
    if outcome.failures:
        _keep_good_shards(context, key, outcome.reports, describe)
        _fail(context, outcome.failures)
    for report in outcome.reports:
        context.add_asset_metadata(
            _described(report, describe), asset_key=key, partition_key=report.shard
        )
    context.set_data_version(key, dg.DataVersion(_joint_version(outcome.reports)))


def _described(report: R, describe: Callable[[R], Mapping[str, Any]]) -> dict[str, Any]:
    return {**describe(report), "shard_data_version": report.data_version}


def _joint_version(reports: Sequence[ShardReport]) -> str:
    if len(reports) == 1:
        return reports[0].data_version
    versions = [(report.shard, report.data_version) for report in reports]
    return rows_digest(pl.DataFrame(versions, schema=["shard", "version"], orient="row"))


def _keep_good_shards(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    reports: Sequence[R],
    describe: Callable[[R], Mapping[str, Any]],
) -> None:
    code_version = context.assets_def.code_versions_by_key[key]
    for report in reports:
        tags = {"dagster/data_version": report.data_version}
        if code_version is not None:
            tags["dagster/code_version"] = code_version
        context.log_event(
            dg.AssetMaterialization(
                key,
                partition=report.shard,
                metadata=_described(report, describe),
                tags=tags,
            )
        )


def _fail(context: dg.AssetExecutionContext, failures: Mapping[str, Exception]) -> None:
    first = next(iter(failures.values()))
    if len(context.partition_keys) == 1:
        raise first
    raise dg.Failure(
        f"{len(failures)} of {len(context.partition_keys)} shards failed "
        f"({', '.join(failures)}), the first with: {first}",
        metadata={"failed_shards": dg.MetadataValue.json(sorted(failures))},
    ) from first
