"""Fetching and embedding several catalogs in one process, for the shell and notebooks.

One thread embeds what has been fetched while the network brings the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from imgsim_assets.catalog.stage import ItemsReport
from imgsim_assets.download.stage import DownloadReport
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.progress import ProgressListener


@dataclass(frozen=True)
class PipelineReport:
    """The reports of a catalog's stages; `items` is None where no source was read."""

    name: str
    items: ItemsReport | None
    images: Sequence[DownloadReport]
    embeddings: Sequence[EmbeddingReport]

    @property
    def requested(self) -> int:
        """Images that were requested in this run."""
        return sum(report.requested for report in self.images)

    @property
    def fetched(self) -> int:
        """Images that arrived in this run."""
        return sum(report.fetched for report in self.images)

    @property
    def embedded(self) -> int:
        """Forward passes of this run."""
        return sum(report.embedded for report in self.embeddings)


def fetch_and_embed(
    pipelines: Sequence[CatalogPipeline],
    *,
    read_sources: bool = True,
    listener: ProgressListener | None = None,
) -> list[PipelineReport]:
    """Fetch and embed catalogs, with both stages running concurrently.

    Args:
        pipelines: the catalogs.
        read_sources: read each source first; else the stored items are used.
        listener: receives the progress.

    Returns:
        One report for each catalog, in the same order.

    Raises:
        SourceError, EncoderError, StoreError: as the stages do, after what was computed has
            been kept.
    """
    progress = listener or ProgressListener()
    items = [
        pipeline.ingest(allow_removals=True) if read_sources else None for pipeline in pipelines
    ]
    with EmbeddingThread() as thread:
        started = [_start(pipeline, thread, progress) for pipeline in pipelines]
        return [
            PipelineReport(pipeline.name, report, images, [future.result() for future in futures])
            for pipeline, report, (images, futures) in zip(pipelines, items, started, strict=True)
        ]


def _start(
    pipeline: CatalogPipeline, thread: EmbeddingThread, listener: ProgressListener
) -> tuple[list[DownloadReport], list[Future[EmbeddingReport]]]:
    """Fetch a catalog's shards here, and submit each to the embedding thread."""
    name = pipeline.name
    listener.started(name, pipeline.images)
    stage = pipeline.open_embeddings(thread)
    stream = EmbeddingStream(lambda: stage, thread, log=pipeline.log)
    images: list[DownloadReport] = []
    futures: list[Future[EmbeddingReport]] = []

    def on_embedded(future: Future[EmbeddingReport], images: int) -> None:
        if not future.cancelled() and future.exception() is None:
            listener.embedded(name, images)

    with pipeline.open_images(
        on_row=lambda: listener.fetched(name, 1), on_commit=stream.notify
    ) as fetch:
        for shard in pipeline.shards:
            report = fetch(shard)
            images.append(report)
            # `on_row` has counted those that were requested.
            listener.fetched(name, max(0, report.images - report.requested))
            futures.append(stream.finalize(shard))
            futures[-1].add_done_callback(partial(on_embedded, images=report.images))
            _raise_first_error(futures)
    return images, futures


def _raise_first_error(futures: Sequence[Future[EmbeddingReport]]) -> None:
    """Fail as soon as the embedding has: an encoder that cannot be loaded fails every shard."""
    for future in futures:
        if future.done() and (error := future.exception()) is not None:
            raise error
