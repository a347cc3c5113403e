"""Running a stage over several shards, where a failed shard does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from imgsim_assets.errors import BusyError, EncoderError, SettingsError
from imgsim_assets.progress import Log
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.shards import Shard

R = TypeVar("R")

_ITEMS_PER_SHARD = 256
_MAX_SHARDS = 256


@dataclass(frozen=True)
class ShardReports(Generic[R]):
    """The reports of the shards that succeeded, and the errors of the others by shard name."""

    succeeded: list[R]
    failed: dict[str, Exception]


def run_shards(shards: Iterable[Shard], run: Callable[[Shard], R], log: Log) -> ShardReports[R]:
    """Run a stage for every shard, going on after a shard that fails.

    Args:
        shards: the shards, in the order in which they run.
        run: the stage's `run`.
        log: receives a message about each shard that fails, while its exception is being handled.

    Returns:
        A report or an error for every shard.

    Raises:
        EncoderError, SettingsError: at once, since they are the same for every shard.
    """
    reports: ShardReports[R] = ShardReports([], {})
    for shard in shards:
        try:
            reports.succeeded.append(run(shard))
        except (EncoderError, SettingsError):
            raise
        except BusyError as error:
            reports.failed[shard.name] = error
        except Exception as error:
            log(f"shard {shard.name} failed")
            reports.failed[shard.name] = error
    return reports


def shards_of(commit: Commit) -> list[Shard]:
    """The shards that a committed table is split into, in order."""
    count = max((file.shard_count or 1 for file in commit.files_with_role()), default=1)
    return [Shard(index, count) for index in range(count)]


def shards_for(items: int) -> int:
    """The number of shards for a catalog of `items` rows: a power of two, at most 256.

    Shards are small enough that embedding begins soon, and large enough that commits are cheap.
    """
    shards = 1
    while shards * _ITEMS_PER_SHARD < items and shards < _MAX_SHARDS:
        shards *= 2
    return shards
