from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import embed_shards, fill, sha256_of
from imgsim_assets_tests.support.images import encoded, jpeg, make_image

SOUND = jpeg(1)
CUT = jpeg(2)[:3000]
CUT_GIF = encoded(make_image(3).quantize(64), "GIF")[:-400]
IMAGES = {"cut": CUT, "cut_gif": CUT_GIF, "sound": SOUND}
REJECT = EncoderSettings(name="hog_color", batch_size=4)
ACCEPT = REJECT.model_copy(update={"truncated_images": "accept"})
ACCEPTED = {"cut": ("ok", True), "cut_gif": ("truncated", False), "sound": ("ok", False)}


def rows(store: Store, name: str) -> dict[str, tuple[str, bool]]:
    table = embeddings_table(store, name)
    commit = table.latest()
    assert commit is not None
    found = table.read(commit).select("id", "status", pl.col("truncated"))
    return {item: (status, truncated) for item, status, truncated in found.iter_rows()}


def statuses(store: Store, name: str) -> dict[str, str]:
    return {item: status for item, (status, _) in rows(store, name).items()}


def test_truncated_images_are_rejected_unless_they_are_accepted(store: Store) -> None:
    embed_shards(store, "shop", REJECT, fill(store, "shop", IMAGES))

    assert statuses(store, "shop") == {"cut": "truncated", "cut_gif": "truncated", "sound": "ok"}


def test_accepted_truncated_images_are_flagged(store: Store) -> None:
    embed_shards(store, "shop", ACCEPT, fill(store, "shop", IMAGES))

    assert rows(store, "shop") == ACCEPTED


@pytest.mark.parametrize("history", [(REJECT, ACCEPT), (ACCEPT, REJECT), (REJECT, ACCEPT, REJECT)])
def test_another_setting_gives_the_rows_of_a_full_run(store: Store, history: Any) -> None:
    shards = fill(store, "shop", IMAGES)
    for settings in history:
        embed_shards(store, "shop", settings, shards)
    fresh = Store.open(f"{store.url}-fresh")
    embed_shards(fresh, "shop", history[-1], fill(fresh, "shop", IMAGES))

    assert statuses(store, "shop") == statuses(fresh, "shop")
    assert len({EmbeddingStage(store, "shop", settings).fingerprint for settings in history}) == 1


@pytest.mark.parametrize("settings", [REJECT, ACCEPT])
def test_second_run_does_nothing(store: Store, settings: EncoderSettings) -> None:
    shards = fill(store, "shop", IMAGES)
    embed_shards(store, "shop", settings, shards)

    [again] = embed_shards(store, "shop", settings, shards)

    assert (again.embedded, again.changed) == (0, False)


@pytest.mark.parametrize(("settings", "status"), [(REJECT, "truncated"), (ACCEPT, "ok")])
def test_other_catalog_takes_no_truncated_image_that_it_rejects(
    store: Store, settings: EncoderSettings, status: str
) -> None:
    embed_shards(store, "shop", ACCEPT, fill(store, "shop", IMAGES))

    [report] = embed_shards(store, "other", settings, fill(store, "other", IMAGES))

    assert report.reused == (2 if settings is ACCEPT else 1)
    assert statuses(store, "other")["cut"] == status
    assert rows(store, "other")["cut"][1] is (settings is ACCEPT)


def test_vectors_of_truncated_images_survive_the_merge_of_small_files(store: Store) -> None:
    images = {f"{seed:02}": jpeg(seed) for seed in range(30)}
    images["cut"] = CUT
    for count in range(1, len(images) + 1):
        part = dict(list(images.items())[-count:])
        embed_shards(store, "shop", ACCEPT, fill(store, "shop", part))

    stage = EmbeddingStage(store, "shop", ACCEPT)
    assert VectorTable(store, "shop", stage.fingerprint).flagged()["truncated"] == {sha256_of(CUT)}
    assert stage.run(Shard(0, 1)).embedded == 0
