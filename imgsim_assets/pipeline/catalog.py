"""The pipeline of one catalog: its stages, each wired once from the catalog's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsReport, ItemsStage, items_table
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread
from imgsim_assets.errors import SettingsError
from imgsim_assets.evaluation.stage import EncoderEvaluation, EvaluationStage
from imgsim_assets.index.stage import IndexReport, IndexStage
from imgsim_assets.pipeline.invariants import Results, embeddings_invariants
from imgsim_assets.pipeline.loader import Loader, LoaderStage
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.shards import ShardReports, run_shards
from imgsim_assets.progress import Log, printable_log, silent
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.graph import GraphReport, GraphStage
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


class CatalogPipeline:
    """The stages of one catalog over a store; each method runs one of them.

    Every stage does only what is new: what the store holds is not fetched, embedded or computed
    again. Dagster's assets, the shell and a notebook all run these methods.

    Args:
        store: where tables and images are.
        settings: the catalog as declared.
        root: folder from which relative paths in the settings start; default: the working
            directory.
        loader: gives the images in place of the download.
        retry: which failures of earlier runs the download tries again.
        record: whether the store records the download settings as those of the catalog.
        wait: whether the download waits for another run that is at work on a shard.
        log: receives the progress messages of long stages.
        warn: receives the warnings; default: `log`.
        log_exception: receives a message about a failed shard while its exception is being
            handled; default: `warn`.
    """

    def __init__(
        self,
        store: Store,
        settings: CatalogSettings,
        *,
        root: Path | None = None,
        loader: Loader | None = None,
        retry: Retry = "retryable",
        record: bool = True,
        wait: bool = True,
        log: Log = silent,
        warn: Log | None = None,
        log_exception: Log | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.root = root or Path.cwd()
        self.loader = loader
        self.retry = retry
        self.record = record
        self.wait = wait
        self.log = printable_log(log)
        self.warn = printable_log(warn or log)
        self.log_exception = printable_log(log_exception or warn or log)

    @classmethod
    def from_store(
        cls,
        store: Store,
        name: str,
        *,
        shards: int,
        encoder: EncoderSettings,
        download: DownloadSettings,
        retry: Retry,
        log: Log = silent,
    ) -> Self:
        """The pipeline of a catalog as the store holds it; its source is not to be read.

        The store keeps the download settings that it has recorded.
        """
        settings = CatalogSettings(
            name=name,
            source=SourceSettings(path=f"{name}/items"),
            shards=shards,
            encoder=encoder,
            download=download,
        )
        return cls(store, settings, retry=retry, record=False, log=log)

    @property
    def name(self) -> str:
        """The catalog's name."""
        return self.settings.name

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order."""
        return [Shard(index, self.settings.shards) for index in range(self.settings.shards)]

    @property
    def encoder(self) -> EncoderSettings:
        """The encoder's settings, with the path of its weights file resolved."""
        return self.settings.encoder.with_absolute_weights(self.root)

    @property
    def images(self) -> int:
        """The number of images of the newest version of `<name>/items`; 0 without one."""
        commit = items_table(self.store, self.name).latest()
        return commit.properties.get("images", commit.rows) if commit is not None else 0

    def ingest(self, *, allow_removals: bool = False) -> ItemsReport:
        """Read the source, and commit `<name>/items` and `<name>/rejects`.

        Args:
            allow_removals: accept the source even if it has lost more items than
                `checks.max_removed_fraction` allows.

        Raises:
            SourceError: when the source is missing, cannot be read, has no usable row or has
                lost too many items.
        """
        limit = self.settings.checks.max_removed_fraction
        return ItemsStage(
            self.store,
            self.name,
            self.settings.source,
            shards=self.settings.shards,
            project_root=self.root,
            max_removed_fraction=1.0 if allow_removals else limit,
        ).run()

    @contextlib.contextmanager
    def open_images(
        self,
        *,
        on_row: Callable[[], None] | None = None,
        on_commit: Callable[[Shard], None] | None = None,
    ) -> Iterator[Callable[[Shard], DownloadReport]]:
        """The `run` of the images stage (or of the loader) while the context lasts.

        Args:
            on_row: called after each image that was requested.
            on_commit: called after each commit of a shard's ledger, from the stage's thread.
        """
        settings = self.settings.download.with_absolute_ca_file(self.root)
        if self.loader is not None:
            yield LoaderStage(
                self.store, self.name, self.loader, settings, log=self.log, on_row=on_row
            ).run
            return
        for host in settings.unverified_hosts:
            self.warn(f"{self.name}: any certificate of {host} is accepted (verify_tls: false)")
        with ImagesStage(
            self.store,
            self.name,
            settings,
            retry=self.retry,
            record=self.record,
            wait=self.wait,
            log=self.log,
            on_row=on_row,
            on_commit=on_commit,
        ) as stage:
            yield stage.run

    def open_embeddings(self, thread: EmbeddingThread | None = None) -> EmbeddingStage:
        """The embeddings stage; `thread` is the one it will work in, which can stop it."""
        return EmbeddingStage(
            self.store,
            self.name,
            self.encoder,
            log=self.log,
            stop=thread.stop if thread is not None else None,
        )

    def fetch(
        self, shards: Sequence[Shard], *, stream: EmbeddingStream | None = None
    ) -> ShardReports[DownloadReport]:
        """Fetch the images that the shards lack, and commit their ledger `<name>/images`.

        With a `stream`, what has been committed is embedded while the rest is fetched.
        """
        with self.open_images(on_commit=stream.notify if stream is not None else None) as run:

            def fetch_shard(shard: Shard) -> DownloadReport:
                report = run(shard)
                if stream is not None and report.changed:
                    stream.notify(shard)
                return report

            return run_shards(shards, fetch_shard, self.log_exception)

    def embed(
        self, shards: Sequence[Shard], *, stream: EmbeddingStream | None = None
    ) -> ShardReports[EmbeddingReport]:
        """Embed the images that have no vector yet, and commit `<name>/embeddings`.

        With a `stream`, its thread does the work, and skips what it has already embedded.
        """
        if stream is None:
            return run_shards(shards, self.open_embeddings().run, self.log_exception)
        return run_shards(shards, lambda shard: stream.finalize(shard).result(), self.log_exception)

    def check_embeddings(self, shards: Sequence[Shard]) -> Results:
        """The invariants of the embeddings of some shards."""
        return embeddings_invariants(self.store, self.name, shards)

    def index(self) -> IndexReport:
        """Update the FAISS index `<name>/index` to match the embeddings."""
        stage = IndexStage(self.store, self.name, self.settings.index, log=self.warn)
        with use_compute(self.settings.compute, self.log):
            return stage.run()

    def graph(self) -> GraphReport:
        """Update `<name>/similarity_graph` to match the index."""
        stage = GraphStage(
            self.store,
            self.name,
            self.settings.graph,
            root=self.root,
            encoder=self.encoder,
            log=self.log,
        )
        with use_compute(self.settings.compute, self.log) as device:
            return replace(stage.run(), device=str(device))

    def groups(self) -> GroupReport:
        """Update `<name>/duplicate_groups` to match the index.

        Raises:
            SettingsError: when the catalog declares no groups.
        """
        if self.settings.groups is None:
            raise SettingsError(f"groups: {self.name} declares none; set 'groups: {{}}'")
        stage = GroupStage(
            self.store,
            self.name,
            self.settings.groups,
            root=self.root,
            encoders={self.name: self.encoder},
            log=self.log,
        )
        with use_compute(self.settings.compute, self.log) as device:
            return replace(stage.run(), device=str(device))

    def evaluate(self) -> EncoderEvaluation:
        """Measure the encoder on the catalog's own images, if that is not up to date.

        Raises:
            SettingsError: when the catalog declares no evaluation.
        """
        if self.settings.evaluation is None:
            raise SettingsError(f"evaluation: {self.name} declares none; set 'evaluation: {{}}'")
        stage = EvaluationStage(self.store, self.name, self.settings.evaluation, self.encoder)
        with use_compute(self.settings.compute, self.log):
            return stage.run()
