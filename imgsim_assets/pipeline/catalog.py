"""The stages of the pipeline driven from plain Python, over a store, without Dagster.

What has been fetched is embedded while the rest is on its way: the network and the processor
work at the same time. What is stored already is neither fetched nor embedded again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsReport, ItemsStage
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage
from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread
from imgsim_assets.pipeline.loader import Loader, LoaderStage
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

# Shards small enough that embedding begins soon, large enough that commits cost little.
_ITEMS_PER_SHARD = 256
_MOST_SHARDS = 256


@dataclass(frozen=True)
class CatalogJob:
    """What is to be done for one catalog.

    `source` is read from `root`; None leaves the catalog as it was last ingested. A `loader`
    gets the images in place of the download. `retry` says which earlier failures of the
    download are tried again.
    """

    name: str
    source: SourceSettings | None
    shards: int
    encoder: EncoderSettings
    download: DownloadSettings = field(default_factory=DownloadSettings)
    loader: Loader | None = None
    root: Path = field(default_factory=Path.cwd)
    retry: Retry = "retryable"


@dataclass(frozen=True)
class Refreshed:
    """What the stages report of one catalog; `catalog` is None where no source was read."""

    name: str
    catalog: ItemsReport | None
    images: Sequence[DownloadReport]
    embeddings: Sequence[EmbeddingReport]

    @property
    def requested(self) -> int:
        """Items whose images this run asked for."""
        return sum(report.requested for report in self.images)

    @property
    def fetched(self) -> int:
        """Images that arrived in this run."""
        return sum(report.fetched for report in self.images)

    @property
    def embedded(self) -> int:
        """Forward passes of this run."""
        return sum(report.embedded for report in self.embeddings)


class ProgressListener(Protocol):
    """Somebody who is told, from two threads, how a refresh is getting on."""

    def begins(self, name: str, items: int) -> None:
        """A catalog of so many items is about to be worked on."""

    def fetched(self, name: str, items: int) -> None:
        """So many more items have been fetched, or found to be there."""

    def embedded(self, name: str, items: int) -> None:
        """So many more items have been embedded, or found to be there."""


class NullProgress:
    """Nobody."""

    def begins(self, name: str, items: int) -> None:
        """Ignored."""

    def fetched(self, name: str, items: int) -> None:
        """Ignored."""

    def embedded(self, name: str, items: int) -> None:
        """Ignored."""


def shards_for(items: int) -> int:
    """A number of shards for a catalog of so many items: a power of two, seldom changing."""
    shards = 1
    while shards * _ITEMS_PER_SHARD < items and shards < _MOST_SHARDS:
        shards *= 2
    return shards


def refresh(
    store: Store,
    jobs: Sequence[CatalogJob],
    *,
    log: Log = silent,
    watch: ProgressListener | None = None,
) -> list[Refreshed]:
    """Bring catalogs as far as their embeddings, embedding and fetching at the same time.

    Raises what the stages raise, after what was computed has been kept: SourceError,
    EncoderError, StoreError.
    """
    told = watch or NullProgress()
    catalogs = [_update_items(store, job) for job in jobs]
    with EmbeddingThread() as thread:
        running = [
            _work(store, job, _items(store, job, report), thread, log, told)
            for job, report in zip(jobs, catalogs, strict=True)
        ]
        return [
            Refreshed(job.name, catalog, images, [future.result() for future in futures])
            for job, catalog, (images, futures) in zip(jobs, catalogs, running, strict=True)
        ]


def _update_items(store: Store, job: CatalogJob) -> ItemsReport | None:
    if job.source is None:
        return None
    stage = ItemsStage(store, job.name, job.source, shards=job.shards, project_root=job.root)
    return stage.run()


def _items(store: Store, job: CatalogJob, report: ItemsReport | None) -> int:
    if report is not None:
        return report.rows
    commit = store.table(f"{job.name}/items").latest()
    return commit.rows if commit is not None else 0


def _work(
    store: Store,
    job: CatalogJob,
    items: int,
    thread: EmbeddingThread,
    log: Log,
    watch: ProgressListener,
) -> tuple[list[DownloadReport], list[Future[EmbeddingReport]]]:
    """Fetch a catalog's shards here, and have each embedded by the other thread."""
    watch.begins(job.name, items)
    stage = EmbeddingStage(store, job.name, job.encoder, log=log, stop=thread.stop)
    stream = EmbeddingStream(lambda: stage, thread, log=log)
    images: list[DownloadReport] = []
    futures: list[Future[EmbeddingReport]] = []

    def tell(future: Future[EmbeddingReport], items: int) -> None:
        if not future.cancelled() and future.exception() is None:
            watch.embedded(job.name, items)

    with _fetching(store, job, stream, log, watch) as fetch:
        for index in range(job.shards):
            shard = Shard(index, job.shards)
            report = fetch(shard)
            images.append(report)
            # Those that were asked for have been told of one by one.
            watch.fetched(job.name, max(0, report.items - report.requested))
            futures.append(stream.finalize(shard))
            futures[-1].add_done_callback(partial(tell, items=report.items))
            _raise_early(futures)
    return images, futures


@contextlib.contextmanager
def _fetching(
    store: Store, job: CatalogJob, stream: EmbeddingStream, log: Log, watch: ProgressListener
) -> Iterator[Callable[[Shard], DownloadReport]]:
    def one_fetched() -> None:
        watch.fetched(job.name, 1)

    if job.loader is not None:
        yield LoaderStage(
            store, job.name, job.loader, job.download, log=log, on_row=one_fetched
        ).run
    else:
        with ImagesStage(
            store,
            job.name,
            job.download,
            retry=job.retry,
            log=log,
            on_row=one_fetched,
            on_commit=stream.notify,
        ) as stage:
            yield stage.run


def _raise_early(futures: Sequence[Future[EmbeddingReport]]) -> None:
    """Fail as soon as the embedding has: an encoder that cannot be loaded fails every shard."""
    for future in futures:
        if future.done() and (error := future.exception()) is not None:
            raise error
