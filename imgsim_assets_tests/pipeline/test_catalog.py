from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingReport, EmbeddingStage
from imgsim_assets.encoders.stream import EmbeddingStream
from imgsim_assets.errors import EncoderError
from imgsim_assets.pipeline.catalog import CatalogJob, NullProgress, refresh, shards_for
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, tiny
from imgsim_assets_tests.support.downloads import until
from imgsim_assets_tests.support.encoders import COUNTER, ThumbnailEncoder, encoded_count
from imgsim_assets_tests.support.web import Web


def _job(web: Web, folder: Path, encoder: EncoderSettings = THUMBNAIL) -> CatalogJob:
    for seed in range(40):
        web.pages.setdefault(f"/{seed}.png", tiny(seed))
    (folder / "list.txt").write_text("\n".join(web.url(f"/{seed}.png") for seed in range(40)))
    source = SourceSettings(path=str(folder / "list.txt"))
    return CatalogJob(
        "things", source, 4, encoder, DownloadSettings(allowed_hosts=(web.address,), retries=0)
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
            until(lambda: web.total_gets > seen or web.total_gets == 40)
        return embedding(stage, shard)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingStage, "run", slow)

    (done,) = refresh(store, [_job(web, tmp_path)])

    assert began.is_set()
    assert (done.fetched, done.embedded) == (40, 40)


def test_an_encoder_that_cannot_work_ends_the_run_and_keeps_what_was_fetched(
    store: Store, web: Web, tmp_path: Path
) -> None:
    broken = EncoderSettings(name="x", factory="no_such_module_anywhere:make", version="1")

    with pytest.raises(EncoderError, match="no_such_module_anywhere"):
        refresh(store, [_job(web, tmp_path, broken)])
    fetched = web.total_gets
    (done,) = refresh(store, [_job(web, tmp_path)])

    assert fetched > 0
    assert web.total_gets == 40
    assert done.embedded == 40


def test_an_interruption_ends_the_embedding_within_a_batch_and_keeps_what_there_is(
    store: Store, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    job = replace(_job(web, tmp_path, THUMBNAIL.model_copy(update={"batch_size": 1})), shards=1)
    interrupted = threading.Event()
    encode = ThumbnailEncoder.encode

    def slow(encoder: ThumbnailEncoder, batch: np.ndarray) -> np.ndarray:
        interrupted.wait(60)
        return encode(encoder, batch)

    def finalize(stream: EmbeddingStream, shard: Shard) -> Future[EmbeddingReport]:
        submitted(stream, shard)
        threading.Timer(0.5, interrupted.set).start()
        raise KeyboardInterrupt

    submitted = EmbeddingStream.finalize
    monkeypatch.setattr(ThumbnailEncoder, "encode", slow)
    monkeypatch.setattr(EmbeddingStream, "finalize", finalize)

    with pytest.raises(KeyboardInterrupt):
        refresh(store, [job])
    monkeypatch.undo()
    monkeypatch.setenv(COUNTER, str(tmp_path / "encoded"))
    before = encoded_count(tmp_path / "encoded")
    (done,) = refresh(store, [job])

    assert before < 40
    assert done.embedded < 40


class Told(NullProgress):
    """What a watch was told of the fetching."""

    def __init__(self) -> None:
        self.items = 0
        self.steps: list[int] = []

    def begins(self, name: str, items: int) -> None:
        self.items = items

    def fetched(self, name: str, items: int) -> None:
        self.steps.append(items)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_every_image_is_told_of_as_it_is_fetched(
    store: Store, web: Web, tmp_path: Path, is_loaded: bool
) -> None:
    loader = (lambda row: tiny(len(row["url"]))) if is_loaded else None
    job = replace(_job(web, tmp_path), loader=loader)
    first, again = Told(), Told()

    refresh(store, [job], watch=first)
    refresh(store, [job], watch=again)

    assert first.items == again.items == 40
    assert [step for step in first.steps if step] == [1] * 40
    assert sum(again.steps) == 40
    assert len(again.steps) == job.shards  # nothing was fetched, shard by shard


def test_nothing_is_done_twice(store: Store, web: Web, tmp_path: Path) -> None:
    job = _job(web, tmp_path)
    refresh(store, [job])

    (again,) = refresh(store, [job])

    assert (again.fetched, again.embedded) == (0, 0)
    assert web.total_gets == 40


def test_the_number_of_shards_follows_the_length_in_powers_of_two() -> None:
    assert [shards_for(items) for items in (0, 256, 257, 13_501, 10**7)] == [1, 1, 2, 64, 256]
