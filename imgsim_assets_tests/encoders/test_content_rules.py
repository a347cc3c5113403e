"""The embeddings stage leaves out images without content, as its settings say."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsim_assets.encoders.report import EmbeddingReport
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import embed_shards, fill
from imgsim_assets_tests.support.images import encoded, jpeg
from imgsim_assets_tests.support.tables import latest_commit

REJECT = EncoderSettings(
    name="thumbnail",
    factory="imgsim_assets_tests.support.encoders:thumbnail",
    version="1",
    batch_size=4,
)
KEEP = REJECT.model_copy(update={"blank": "keep", "min_side": 1})
LARGE = REJECT.model_copy(update={"min_side": 100})
BLANK = encoded(Image.new("RGB", (60, 40), (250, 250, 250)), "PNG")
BLANK_JPEG = encoded(Image.new("RGB", (600, 400), (9, 80, 170)), quality=30)
ICON = jpeg(3, (12, 12))
SMALL = jpeg(4, (64, 90))
IMAGES = {"blank": BLANK, "icon": ICON, "jpeg": BLANK_JPEG, "photo": jpeg(1), "small": SMALL}
STATUSES = {
    "reject": ["blank", "too_small", "blank", "ok", "ok"],
    "keep": ["ok"] * 5,
    "large": ["too_small", "too_small", "blank", "ok", "too_small"],
}
SETTINGS = {"reject": REJECT, "keep": KEEP, "large": LARGE}


@pytest.mark.parametrize("chosen", SETTINGS)
def test_images_without_content_have_a_status(store: Store, chosen: str) -> None:
    (report,) = embed_shards(store, "shop", SETTINGS[chosen], fill(store, "shop", IMAGES))

    assert _rows(store, "shop")["status"].to_list() == STATUSES[chosen]
    assert report.embedded == STATUSES[chosen].count("ok")


@pytest.mark.parametrize("encoder", ["hog_color", "squeezenet1_1"])
def test_default_settings_leave_out_images_without_content(store: Store, encoder: str) -> None:
    declared = EncoderSettings(name=encoder)

    assert (declared.blank, declared.min_side) == ("reject", 16)


def test_detail_names_the_setting(store: Store) -> None:
    embed_shards(store, "shop", REJECT, fill(store, "shop", IMAGES))

    assert _rows(store, "shop")["detail"].to_list()[:2] == [
        "a single color; 'blank: keep' of the encoder embeds it",
        "12 x 12 pixels; 'min_side' of the encoder is 16",
    ]


@settings(max_examples=12, deadline=None)
@given(history=st.lists(st.sampled_from(sorted(SETTINGS)), min_size=2, max_size=4))
def test_changed_settings_give_the_rows_of_a_full_run(
    tmp_path_factory: pytest.TempPathFactory, history: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    store, fresh = Store.open(folder / "store"), Store.open(folder / "fresh")
    shards = fill(store, "shop", IMAGES)
    embedded = 0
    for chosen in history:
        (report,) = embed_shards(store, "shop", SETTINGS[chosen], shards)
        embedded += report.embedded
    (expected,) = embed_shards(fresh, "shop", SETTINGS[history[-1]], fill(fresh, "shop", IMAGES))

    assert _rows(store, "shop").equals(_rows(fresh, "shop"))
    assert report.data_version == expected.data_version
    assert embedded <= len(IMAGES)


def test_changed_settings_decide_again_about_those_images_only(store: Store) -> None:
    shards = fill(store, "shop", IMAGES)
    embedded = []
    for chosen in (REJECT, KEEP, REJECT, KEEP, LARGE, REJECT):
        (report,) = embed_shards(store, "shop", chosen, shards)
        embedded.append(report.embedded)

    assert embedded == [2, 3, 0, 0, 0, 0]
    assert len({EmbeddingStage(store, "shop", each).fingerprint for each in (REJECT, KEEP)}) == 1


@pytest.mark.parametrize("chosen", [REJECT, KEEP])
def test_second_run_does_nothing(store: Store, chosen: EncoderSettings) -> None:
    shards = fill(store, "shop", IMAGES)
    embed_shards(store, "shop", chosen, shards)

    (again,) = embed_shards(store, "shop", chosen, shards)

    assert (again.embedded, again.changed) == (0, False)


@pytest.mark.parametrize(("chosen", "reused"), [(REJECT, 2), (KEEP, 5)])
def test_other_catalog_takes_no_vector_that_it_leaves_out(
    store: Store, chosen: EncoderSettings, reused: int
) -> None:
    embed_shards(store, "shop", KEEP, fill(store, "shop", IMAGES))

    (report,) = embed_shards(store, "other", chosen, fill(store, "other", IMAGES))

    assert report.reused == reused
    assert report.statuses.get("blank", 0) == (2 if chosen is REJECT else 0)


def test_small_blank_image_is_too_small_beside_new_images_as_well(store: Store) -> None:
    embed_shards(store, "shop", KEEP, fill(store, "shop", IMAGES))

    embed_shards(store, "shop", LARGE, fill(store, "shop", {**IMAGES, "z": jpeg(9)}))

    assert _rows(store, "shop")["status"].to_list() == [*STATUSES["large"], "ok"]


def test_early_embedding_leaves_out_the_same_images(store: Store) -> None:
    (shard,) = fill(store, "shop", IMAGES)
    stage = EmbeddingStage(store, "shop", REJECT)

    assert stage.embed_available(shard) == 2
    report: EmbeddingReport = stage.run(shard)

    assert _rows(store, "shop")["status"].to_list() == STATUSES["reject"]
    assert report.embedded == report.embedded_early == 2


def _rows(store: Store, name: str) -> pl.DataFrame:
    table = embeddings_table(store, name)
    rows: pl.DataFrame = table.read(latest_commit(table))
    return rows
