"""Embedding while fetching: a catalog's images and embeddings stages run concurrently."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Self

from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.stage import EmbeddingStage, StoppedError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.shards import Shard


class EmbeddingThread:
    """The one thread that embeds any number of catalogs, in the order of submission.

    An encoder is called from one thread at a time. When an error leaves the context, work under
    way ends within a batch; otherwise leaving the context waits for it.

    Attributes:
        stop: the event to give to each EmbeddingStage.
        submit: as of a ThreadPoolExecutor.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "embed")
        self.submit = self._pool.submit

    def cancel(self) -> None:
        """Start nothing more, and end running work within a batch."""
        self.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.cancel()
        self._pool.shutdown()


class EmbeddingStream:
    """Runs a catalog's embeddings stage concurrently with its images stage.

    Call `notify` after each commit of the images stage, and `finalize` when a shard is complete.
    The results are those of the embeddings stage alone.

    Args:
        open_stage: called once, in the thread.
        thread: the thread that embeds.
        log: receives a warning when embedding fails while images are being fetched.
    """

    def __init__(
        self,
        open_stage: Callable[[], EmbeddingStage],
        thread: EmbeddingThread,
        *,
        log: Log = silent,
    ) -> None:
        self._open_stage = open_stage
        self._thread = thread
        self._log = log
        self._notified: set[Shard] = set()
        self._lock = threading.Lock()
        self._has_failed = False

    @cached_property
    def stage(self) -> EmbeddingStage:
        """The embeddings stage; opened when it is first needed."""
        return self._open_stage()

    def notify(self, shard: Shard) -> None:
        """Embed soon what the ledger then has of a shard."""
        with self._lock:
            if shard in self._notified:
                return
            self._notified.add(shard)
        self._thread.submit(self._embed_available, shard)

    def finalize(self, shard: Shard) -> Future[EmbeddingReport]:
        """Embed the rest of a fetched shard, and commit its embeddings."""
        return self._thread.submit(lambda: self.stage.run(shard))

    def _embed_available(self, shard: Shard) -> None:
        with self._lock:
            self._notified.discard(shard)
        if self._has_failed:
            return
        try:
            self.stage.embed_available(shard)
        except StoppedError:
            return
        except Exception as error:
            # Fetching continues; `finalize` gets the error again and reports it.
            self._has_failed = True
            self._log(f"embedding waits until all is fetched: {type(error).__name__}: {error}")
