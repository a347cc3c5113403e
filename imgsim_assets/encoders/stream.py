"""Embedding while fetching: the two stages of a catalog at work at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import Self

from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage, StoppedError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.shards import Shard


class EmbeddingThread:
    """One thread for the embedding of any number of catalogs.

    One, since an encoder is called from one thread at a time, and so that shards are finished in
    the order in which they were asked for. What works in it ends soon after `stop` is set; that
    is the case when it is left by an error. What has begun is waited for.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "embed")
        self.submit = self._pool.submit

    def cancel(self) -> None:
        """Begin nothing more, and have what has begun end within a batch."""
        self.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.cancel()
        self._pool.shutdown()


class EmbeddingStream:
    """A catalog's embeddings stage, which follows its images stage.

    `notify` is to be called after each commit of the images stage, and embeds what that brought;
    `finalize` when a shard is complete. What comes of a shard is what the embeddings stage alone
    would have made of it. `open_stage` is called once, in the thread.
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
        self._waiting: set[Shard] = set()
        self._lock = threading.Lock()
        self._has_failed = False

    @cached_property
    def stage(self) -> EmbeddingStage:
        """The embeddings stage; opened when it is first needed."""
        return self._open_stage()

    def notify(self, shard: Shard) -> None:
        """Embed, when the thread comes to it, what the shard's ledger has by then."""
        with self._lock:
            if shard in self._waiting:
                return
            self._waiting.add(shard)
        self._thread.submit(self._embed_available, shard)

    def finalize(self, shard: Shard) -> Future[EmbeddingReport]:
        """Embed the rest of a shard that is fetched, and commit its embeddings."""
        return self._thread.submit(lambda: self.stage.run(shard))

    def _embed_available(self, shard: Shard) -> None:
        with self._lock:
            self._waiting.discard(shard)
        if self._has_failed:
            return
        try:
            self.stage.embed_available(shard)
        except StoppedError:
            return
        except Exception as error:
            # No reason to stop fetching. `finalize` meets it again, and reports it.
            self._has_failed = True
            self._log(f"embedding waits until all is fetched: {type(error).__name__}: {error}")
