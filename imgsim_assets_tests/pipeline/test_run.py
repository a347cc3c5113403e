from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.stream import EmbeddingStream, EmbeddingThread
from imgsim_assets.errors import EncoderError
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.shards import shards_for
from imgsim_assets.progress import ProgressListener
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, tiny
from imgsim_assets_tests.support.downloads import wait_until
from imgsim_assets_tests.support.encoders import COUNTER, ThumbnailEncoder, encoded_count
from imgsim_assets_tests.support.web import Web


def _settings(web: Web, folder: Path, encoder: EncoderSettings = THUMBNAIL) -> CatalogSettings:
    for seed in range(40):
        web.pages.setdefault(f"/{seed}.png", tiny(seed))
    (folder / "list.txt").write_text("\n".join(web.url(f"/{seed}.png") for seed in range(40)))
    return CatalogSettings(
        name="things",
        source=SourceSettings(path=str(folder / "list.txt")),
        shards=4,
        encoder=encoder,
        download=DownloadSettings(allowed_hosts=(web.address,), retries=0),
    )


def test_a_shard_is_embedded_while_the_next_one_is_fetched(
    store: Store, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding of the first shard waits until a later shard has been asked for."""
    embedding = EmbeddingStage.run
    began = threading.Event()

    def slow(stage: EmbeddingStage, shard: object) -> object:
        if not began.is_set():
            began.set()
            seen = web.total_gets
            wait_until(lambda: web.total_gets > seen or web.total_gets == 40)
        return embedding(stage, shard)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingStage, "run", slow)

    (done,) = fetch_and_embed([CatalogPipeline(store, _settings(web, tmp_path))])

    assert began.is_set()
    assert (done.fetched, done.embedded) == (40, 40)


def test_an_encoder_that_cannot_work_ends_the_run_and_keeps_what_was_fetched(
    store: Store, web: Web, tmp_path: Path
) -> None:
    broken = EncoderSettings(name="x", factory="no_such_module_anywhere:make", version="1")

    with pytest.raises(EncoderError, match="no_such_module_anywhere"):
        fetch_and_embed([CatalogPipeline(store, _settings(web, tmp_path, broken))])
    fetched = web.total_gets
    (done,) = fetch_and_embed([CatalogPipeline(store, _settings(web, tmp_path))])

    assert fetched > 0
    assert web.total_gets == 40
    assert done.embedded == 40


def test_an_interruption_ends_the_embedding_within_a_batch_and_keeps_what_there_is(
    store: Store, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    encoder = THUMBNAIL.model_copy(update={"batch_size": 1})
    settings = _settings(web, tmp_path, encoder).model_copy(update={"shards": 1})
    pipeline = CatalogPipeline(store, settings)
    encoding, interrupted = threading.Event(), threading.Event()
    encode = ThumbnailEncoder.encode

    def slow(encoder: ThumbnailEncoder, batch: np.ndarray) -> np.ndarray:
        encoding.set()
        assert interrupted.wait(60)
        return encode(encoder, batch)

    def finalize(stream: EmbeddingStream, shard: Shard) -> Future[EmbeddingReport]:
        submitted(stream, shard)
        assert encoding.wait(60)
        raise KeyboardInterrupt

    def cancel(thread: EmbeddingThread) -> None:
        canceled(thread)
        interrupted.set()

    submitted, canceled = EmbeddingStream.finalize, EmbeddingThread.cancel
    monkeypatch.setattr(EmbeddingThread, "cancel", cancel)
    monkeypatch.setattr(ThumbnailEncoder, "encode", slow)
    monkeypatch.setattr(EmbeddingStream, "finalize", finalize)

    with pytest.raises(KeyboardInterrupt):
        fetch_and_embed([pipeline])
    monkeypatch.undo()
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    before = encoded_count(tmp_path / "encoded")
    (done,) = fetch_and_embed([pipeline])

    assert before < 40
    assert done.embedded < 40


class RecordingListener(ProgressListener):
    """Records the progress of the fetching."""

    def __init__(self) -> None:
        self.items = 0
        self.steps: list[int] = []

    def started(self, name: str, items: int) -> None:
        self.items = items

    def fetched(self, name: str, items: int) -> None:
        self.steps.append(items)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_listener_receives_every_image_as_it_is_fetched(
    store: Store, web: Web, tmp_path: Path, is_loaded: bool
) -> None:
    loader = (lambda row: tiny(len(row["url"]))) if is_loaded else None
    pipeline = CatalogPipeline(store, _settings(web, tmp_path), loader=loader)
    first, again = RecordingListener(), RecordingListener()

    fetch_and_embed([pipeline], listener=first)
    fetch_and_embed([pipeline], listener=again)

    assert first.items == again.items == 40
    assert [step for step in first.steps if step] == [1] * 40
    assert sum(again.steps) == 40
    assert len(again.steps) == len(pipeline.shards)  # nothing was fetched, shard by shard


def test_nothing_is_done_twice(store: Store, web: Web, tmp_path: Path) -> None:
    pipeline = CatalogPipeline(store, _settings(web, tmp_path))
    fetch_and_embed([pipeline])

    (again,) = fetch_and_embed([pipeline])

    assert (again.fetched, again.embedded) == (0, 0)
    assert web.total_gets == 40


def test_the_number_of_shards_follows_the_length_in_powers_of_two() -> None:
    assert [shards_for(items) for items in (0, 256, 257, 13_501, 10**7)] == [1, 1, 2, 64, 256]
