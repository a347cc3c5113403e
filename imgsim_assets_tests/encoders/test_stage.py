from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsim_assets.encoders import engine, hardware, vector_writer
from imgsim_assets.encoders.encoder import fingerprint, load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage, StoppedError
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import EncoderError, StoreError
from imgsim_assets.images.decode import decode
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    fill,
    fill_shard,
    sha256_of,
    tiny,
)
from imgsim_assets_tests.support.damage import (
    flip_bit,
    flip_bit_in_blob,
    remove_blob,
)
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.fresh_python import printed_lines, run_python
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.weights import save_weights, untrained

HOG_COLOR = EncoderSettings(name="hog_color", batch_size=4)
EMBED_AGAIN = """
import json, sys
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
settings = EncoderSettings.model_validate_json(sys.argv[2])
stage = EmbeddingStage(Store.open(sys.argv[1]), sys.argv[3], settings)
report = stage.run(Shard(0, 1))
print(report.embedded, report.reused, report.changed, stage.encoder is None)
print(sorted({"torch", "torchvision", "faiss"} & set(sys.modules)))
"""


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the thumbnail encoder writes a line for every image."""
    path = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(path))
    return path


# ---- each image once --------------------------------------------------------------------


def test_items_get_unit_vectors_and_norms(store: Store) -> None:
    images = {f"item{seed}": jpeg(seed) for seed in range(6)}

    (report,) = embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", images))

    rows = _rows(store, "shop")
    assert rows["id"].to_list() == sorted(images)
    assert rows["sha256"].to_list() == [sha256_of(images[item]) for item in sorted(images)]
    assert rows["status"].unique().to_list() == ["ok"]
    assert rows["detail"].null_count() == 6
    assert (report.items, report.images, report.embedded, report.statuses) == (6, 6, 6, {"ok": 6})
    found = _vectors(store, "shop", HOG_COLOR, images)
    encoder = load_encoder(HOG_COLOR)
    for sha256, vector, norm in zip(found.sha256, found.vectors, found.norms, strict=True):
        raw = encoder.encode(encoder.prepare(decode(store.blobs.get(sha256)))[None])[0]
        assert norm == pytest.approx(np.linalg.norm(raw), rel=1e-6)
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(vector * norm, raw, atol=1e-6)


def test_image_is_embedded_once_across_ids_shards_and_catalogs(store: Store, counter: Path) -> None:
    images = {f"item{number:02d}": tiny(number % 5) for number in range(20)}

    first = embed_shards(store, "first", THUMBNAIL, fill(store, "first", images, shards=3))
    second = embed_shards(store, "second", THUMBNAIL, fill(store, "second", images, shards=2))

    assert encoded_count(counter) == 5
    assert sum(report.embedded for report in first) == 5
    assert sum(report.items for report in first) == 20
    assert [report.embedded for report in second] == [0, 0]
    assert sum(report.reused for report in second) == 5
    for name in ("first", "second"):
        assert len(_vectors(store, name, THUMBNAIL, images).sha256) == 5


def test_new_process_embeds_only_new_images(store: Store, counter: Path) -> None:
    images: dict[str, bytes | None] = {f"item{seed}": tiny(seed) for seed in range(6)}
    embed_shards(store, "first", THUMBNAIL, fill(store, "first", images))
    images["new"] = tiny(99)
    fill(store, "first", images)
    fill(store, "second", images)

    lines = [
        printed_lines(EMBED_AGAIN, store.url, THUMBNAIL.model_dump_json(), name)
        for name in ("first", "second", "first")
    ]

    assert encoded_count(counter) == 7
    assert [line[0] for line in lines] == [
        "1 0 True False",
        "0 7 True True",
        "0 0 False True",
    ]


@settings(max_examples=15, deadline=None)
@given(
    catalogs=st.lists(
        st.tuples(
            st.dictionaries(st.text("abcdé/", min_size=1, max_size=4), st.integers(0, 5)),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_history_embeds_each_distinct_image_once(
    catalogs: list[tuple[dict[str, int], int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        seen: set[int] = set()
        for turn, (numbers, shards) in enumerate(catalogs):
            name = f"shop{turn % 2}"
            images = {item: tiny(number) for item, number in numbers.items()}

            reports = embed_shards(store, name, THUMBNAIL, fill(store, name, images, shards))

            assert sum(report.embedded for report in reports) == len(set(numbers.values()) - seen)
            seen |= set(numbers.values())
            rows = _rows(store, name)
            assert dict(zip(rows["id"], rows["sha256"], strict=True)) == {
                item: sha256_of(data) for item, data in images.items()
            }
            _vectors(store, name, THUMBNAIL, images)


def test_changed_shard_count_embeds_nothing(store: Store, counter: Path) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(12)}
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images, shards=4))

    reports = embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images, shards=3))

    assert encoded_count(counter) == 12
    assert sum(report.items for report in reports) == 12
    assert _rows(store, "shop")["id"].to_list() == sorted(images)


def test_items_without_image_are_not_embedded(store: Store) -> None:
    (report,) = embed_shards(
        store, "shop", THUMBNAIL, fill(store, "shop", {"a": tiny(1), "b": None})
    )

    assert _rows(store, "shop")["id"].to_list() == ["a"]
    assert (report.items, report.statuses) == (1, {"ok": 1})


def test_embeddings_follow_removed_and_changed_items(store: Store) -> None:
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"a": tiny(1), "b": tiny(2)}))

    (report,) = embed_shards(
        store, "shop", THUMBNAIL, fill(store, "shop", {"b": tiny(3), "c": tiny(2)})
    )

    rows = _rows(store, "shop")
    assert rows.select("id", "sha256").rows() == [
        ("b", sha256_of(tiny(3))),
        ("c", sha256_of(tiny(2))),
    ]
    assert (report.embedded, report.changed) == (1, True)


def test_run_updates_only_its_shard(store: Store) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(8)}
    shards = fill(store, "shop", images, shards=2)
    embed_shards(store, "shop", THUMBNAIL, shards)
    mine = [item for item in images if shard_index(item, 2) == 1]
    fill(store, "shop", {item: tiny(100 + seed) for seed, item in enumerate(images)}, shards=2)

    (report,) = embed_shards(store, "shop", THUMBNAIL, [shards[1]])

    assert (report.shard, report.embedded) == ("001", len(mine))
    for item, sha256 in _rows(store, "shop").select("id", "sha256").iter_rows():
        changed = sha256 != sha256_of(images[item])
        assert changed == (item in mine)


def test_concurrent_shards_are_all_committed(store: Store) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(16)}
    shards = fill(store, "shop", images, shards=4)
    runs = [
        threading.Thread(target=embed_shards, args=(store, "shop", THUMBNAIL, [shard]))
        for shard in shards
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert _rows(store, "shop")["id"].to_list() == sorted(images)
    assert len(_vectors(store, "shop", THUMBNAIL, images).sha256) == 16


# ---- no new images ----------------------------------------------------------------------


def test_second_run_commits_nothing_and_loads_no_encoder(store: Store, counter: Path) -> None:
    images = {"a": tiny(1), "b": tiny(2), "broken": b"no image"}
    shards = fill(store, "shop", images, shards=2)
    first = embed_shards(store, "shop", THUMBNAIL, shards)
    versions = _versions(store)

    again = EmbeddingStage(store, "shop", THUMBNAIL)
    second = [again.run(shard) for shard in shards]

    assert _versions(store) == versions
    assert again.encoder is None
    assert encoded_count(counter) == 2
    assert [report.changed for report in second] == [False, False]
    assert [report.data_version for report in second] == [report.data_version for report in first]


def test_changed_device_or_batch_size_embeds_nothing(store: Store) -> None:
    shards = fill(store, "shop", {"a": tiny(1)})
    embed_shards(store, "shop", THUMBNAIL, shards)
    elsewhere = THUMBNAIL.model_copy(update={"device": "cpu", "batch_size": 1})

    (report,) = embed_shards(store, "shop", elsewhere, shards)

    assert not report.changed


def test_run_without_new_images_does_not_import_torch(store: Store, tmp_path: Path) -> None:
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    choice = EncoderSettings(name="squeezenet1_1", weights=path, device="cpu")
    embed_shards(store, "shop", choice, fill(store, "shop", {"a": jpeg(1), "b": jpeg(2)}))

    lines = printed_lines(EMBED_AGAIN, store.url, choice.model_dump_json(), "shop")

    assert lines == ["0 0 False True", "[]"]


def test_data_version_depends_on_items_images_and_encoder(tmp_path: Path) -> None:
    def version(images: Mapping[str, bytes | None], choice: EncoderSettings = THUMBNAIL) -> str:
        store = Store.open(tempfile.mkdtemp(dir=tmp_path))
        (report,) = embed_shards(store, "shop", choice, fill(store, "shop", images))
        return report.data_version

    base = version({"a": tiny(1), "b": tiny(2)})
    assert version({"b": tiny(2), "a": tiny(1)}) == base
    assert version({"a": tiny(1), "b": tiny(2), "gone": None, "broken": b"no"}) == base
    different = {
        version({"a": tiny(1)}),
        version({"a": tiny(1), "c": tiny(2)}),
        version({"a": tiny(2), "b": tiny(1)}),
        version({"a": tiny(1), "b": tiny(2)}, HOG_COLOR),
    }
    assert len(different | {base}) == 5


# ---- images that cannot be embedded ---------------------------------------------------


def test_broken_images_get_a_status(store: Store) -> None:
    whole = jpeg(1)
    images = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "flat": encoded(Image.new("RGB", (50, 50), (90, 90, 90)), "PNG"),
        "good": whole,
        "page": b"<!doctype html><title>404</title>",
    }

    (report,) = embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", images))

    rows = _rows(store, "shop")
    assert dict(zip(rows["id"], rows["status"], strict=True)) == {
        "cut": "truncated",
        "empty": "not_image",
        "flat": "blank",
        "good": "ok",
        "page": "not_image",
    }
    assert rows.filter(pl.col("status") != "ok")["detail"].null_count() == 0
    assert report.statuses == {"blank": 1, "not_image": 2, "ok": 1, "truncated": 1}
    assert VectorTable(store, "shop", report.fingerprint).keys() == {sha256_of(whole)}


def test_shard_of_broken_images_succeeds(store: Store) -> None:
    images = {f"item{number:02d}": b"no image %d" % number for number in range(10)}

    (report,) = embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images))

    assert report.statuses == {"not_image": 10}
    assert report.embedded == 0


def test_zero_and_infinite_features_fail_only_their_images(store: Store) -> None:
    images = {
        "dark": encoded(Image.new("RGB", (16, 16), (5, 5, 5)), "PNG"),
        "light": encoded(Image.new("RGB", (16, 16), (250, 250, 250)), "PNG"),
        "plain": tiny(1),
    }
    settings = _own("zero_or_nan_features").model_copy(update={"blank": "keep"})

    embed_shards(store, "shop", settings, fill(store, "shop", images))

    rows = _rows(store, "shop")
    assert rows["status"].to_list() == ["zero_vector", "not_finite", "ok"]
    assert VectorTable(store, "shop", fingerprint(_own("zero_or_nan_features"))).keys() == {
        sha256_of(tiny(1))
    }


def test_broken_images_are_not_retried(store: Store) -> None:
    images = {"broken": jpeg(1)[:3000], "flat": encoded(Image.new("RGB", (90, 90)), "PNG")}
    shards = fill(store, "shop", images)
    (first,) = embed_shards(store, "shop", HOG_COLOR, shards)
    for data in images.values():
        remove_blob(store, sha256_of(data))

    again = EmbeddingStage(store, "shop", HOG_COLOR)
    second = again.run(shards[0])

    assert second.statuses == first.statuses == {"blank": 1, "truncated": 1}
    assert again.encoder is None
    assert store.blobs.missing() == set()


def test_broken_image_is_not_retried_under_another_id(store: Store) -> None:
    broken = jpeg(1)[:3000]
    shards = fill(store, "shop", {"a": broken})
    embed_shards(store, "shop", THUMBNAIL, shards)
    remove_blob(store, sha256_of(broken))
    _refill_without_blobs(store, {"b": broken}, shards[0])

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert report.statuses == {"truncated": 1}


@pytest.mark.parametrize("harm", ["deleted", "flipped"])
def test_lost_image_is_reported_and_embedded_when_fetched_again(harm: str, store: Store) -> None:
    shards = fill(store, "shop", {"a": tiny(1), "b": tiny(2)})
    lost = sha256_of(tiny(1))
    (remove_blob if harm == "deleted" else flip_bit_in_blob)(store, lost)

    (hurt,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert hurt.statuses == {"lost_image": 1, "ok": 1}
    assert store.blobs.missing() == {lost}

    store.blobs.put(tiny(1))
    store.blobs.flush()
    (healed,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert healed.statuses == {"ok": 2}
    assert healed.embedded == 1
    assert store.blobs.missing() == set()


@pytest.mark.parametrize(
    "harm",
    [
        "deleted",
        "flipped",
    ],
)
def test_image_that_stays_lost_commits_nothing(harm: str, store: Store) -> None:
    shards = fill(store, "shop", {"a": tiny(1)})
    (remove_blob if harm == "deleted" else flip_bit_in_blob)(store, sha256_of(tiny(1)))
    embed_shards(store, "shop", THUMBNAIL, shards)
    versions = _versions(store)

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert report.statuses == {"lost_image": 1}
    assert _versions(store) == versions


def test_image_with_vector_may_lose_its_bytes(store: Store) -> None:
    shards = fill(store, "shop", {"a": tiny(1)})
    embed_shards(store, "shop", THUMBNAIL, shards)
    flip_bit_in_blob(store, sha256_of(tiny(1)))

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)

    assert report.statuses == {"ok": 1}


# ---- encoders ---------------------------------------------------------------------------


def test_previous_encoder_reuses_its_vectors(store: Store, counter: Path) -> None:
    shards = fill(store, "shop", {"a": tiny(1), "b": tiny(2), "broken": b"no"}, shards=2)
    embed_shards(store, "shop", THUMBNAIL, shards)
    newer = THUMBNAIL.model_copy(update={"version": "2"})

    forth = embed_shards(store, "shop", newer, shards)
    back = embed_shards(store, "shop", THUMBNAIL, shards)

    assert encoded_count(counter) == 4
    assert all(report.changed for report in (*forth, *back))
    assert [report.fingerprint for report in back] == [fingerprint(THUMBNAIL)] * 2
    for choice in (THUMBNAIL, newer):
        assert len(VectorTable(store, "shop", fingerprint(choice)).keys()) == 2
    assert _rows(store, "shop")["status"].to_list() == ["ok", "ok", "not_image"]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_hog_color_vectors_do_not_depend_on_batch_size(store: Store, batch_size: int) -> None:
    images = {f"item{seed}": jpeg(seed) for seed in range(7)}
    embed_shards(store, "first", HOG_COLOR, fill(store, "first", images))
    other = Store.open(Path(store.url) / "other")
    choice = EncoderSettings(name="hog_color", batch_size=batch_size)

    embed_shards(other, "first", choice, fill(other, "first", images))

    found = _vectors(other, "first", choice, images)
    expected = _vectors(store, "first", HOG_COLOR, images)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.norms, expected.norms)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 1e-3)])
def test_torch_vectors_do_not_depend_on_batch_size(
    precision: Literal["fp32", "bf16"],
    tolerance: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Torch emulates bf16 without hardware support, fast enough for five images.
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    images = {f"item{seed}": jpeg(seed) for seed in range(5)}
    path = save_weights(untrained("mobilenet_v3_small"), tmp_path / "own.pth")
    results = []
    for batch_size in (1, 2, 5):
        choice = EncoderSettings(
            name="mobilenet_v3_small",
            weights=path,
            device="cpu",
            batch_size=batch_size,
            precision=precision,
        )
        own = Store.open(tmp_path / f"store{batch_size}")
        embed_shards(own, "shop", choice, fill(own, "shop", images))
        results.append(_vectors(own, "shop", choice, images).vectors)

    assert results[0].shape == (5, 1024)
    np.testing.assert_allclose(results[1], results[0], atol=tolerance)
    np.testing.assert_allclose(results[2], results[0], atol=tolerance)


def test_vectors_do_not_depend_on_other_images_or_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"item{seed}": jpeg(seed) for seed in range(11)}
    path = save_weights(untrained("mobilenet_v3_small"), tmp_path / "own.pth")
    choice = EncoderSettings(
        name="mobilenet_v3_small", weights=path, device="cpu", precision="fp32"
    )
    found = []
    for cores, chosen in ((1, 11), (3, 11), (2, 7)):
        monkeypatch.setattr(engine, "usable_cores", lambda cores=cores: cores)
        own = Store.open(tmp_path / f"store{cores}")
        some = dict(list(images.items())[:chosen])
        embed_shards(own, "shop", choice, fill(own, "shop", some))
        rows = _vectors(own, "shop", choice, some)
        found.append(dict(zip(rows.sha256, rows.vectors, strict=True)))

    for sha256, vector in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(other.get(sha256, vector), vector)
    assert [len(rows) for rows in found] == [11, 11, 7]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("extra_column", r"shape \(3, 193\) for 3 images; it must be \(3, 192\)"),
        ("one_row_missing", r"shape \(2, 192\) for 3 images; it must be \(3, 192\)"),
    ],
)
def test_wrong_feature_shape_raises(function: str, shapes: str, store: Store) -> None:
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(3)})

    with pytest.raises(EncoderError, match=shapes):
        embed_shards(store, "shop", _own(function), shards)

    assert embeddings_table(store, "shop").latest() is None


def test_different_prepared_shapes_raise(store: Store) -> None:
    images = {"a": encoded(make_image(1, (40, 30))), "b": encoded(make_image(2, (30, 40)))}

    with pytest.raises(EncoderError, match="shape"):
        embed_shards(store, "shop", _own("different_shapes"), fill(store, "shop", images))


def test_shards_share_one_encoder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(custom_encoders.CALLS, str(tmp_path / "calls"))
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(6)}, shards=3)

    embed_shards(store, "shop", _own("counted_module"), shards)
    embed_shards(store, "shop", _own("counted_module"), shards)

    assert custom_encoders.calls(tmp_path / "calls") == 1


def test_unversioned_encoder_is_loaded_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(custom_encoders.CALLS, str(tmp_path / "calls"))
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(6)}, shards=3)

    embed_shards(store, "shop", _own("counted_module", version=None), shards)

    assert custom_encoders.calls(tmp_path / "calls") == 1


def test_report_has_device_batch_size_and_rates(store: Store, tmp_path: Path) -> None:
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    choice = EncoderSettings(
        name="squeezenet1_1", weights=path, device="cpu", precision="fp32", batch_size=2
    )
    shards = fill(store, "shop", {f"item{seed}": jpeg(seed) for seed in range(3)})

    (worked,) = embed_shards(store, "shop", choice, shards)
    (idle,) = embed_shards(store, "shop", choice, shards)

    assert (worked.device, worked.precision, worked.batch_size) == ("cpu", "fp32", 2)
    assert (worked.dim, worked.recommended_threshold) == (idle.dim, None) == (512, None)
    assert set(worked.images_per_second) == {"decode", "preprocess", "forward"}
    assert all(rate > 0 for rate in worked.images_per_second.values())
    assert (idle.device, idle.precision, idle.batch_size, idle.images_per_second) == (
        None,
        "fp32",
        None,
        {},
    )


@pytest.mark.parametrize("side", [1000, 2000, 4000])
def test_reduced_decoding_gives_nearly_the_same_vector(side: int, store: Store) -> None:
    data = jpeg(7, (side, side * 3 // 4))

    embed_shards(store, "shop", HOG_COLOR, fill(store, "shop", {"a": data}))

    encoder = load_encoder(HOG_COLOR)
    raw = encoder.encode(encoder.prepare(decode(data))[None])[0]
    (vector,) = _vectors(store, "shop", HOG_COLOR, {"a": data}).vectors
    assert vector @ raw / np.linalg.norm(raw) > 0.999


# ---- embedding while fetching -----------------------------------------------------------


def test_early_embedded_images_are_not_embedded_again(store: Store, counter: Path) -> None:
    images: dict[str, bytes | None] = {f"item{seed}": tiny(seed) for seed in range(9)}
    some = dict(list(images.items())[:5])
    (shard,) = fill(store, "shop", some | {"broken": b"no"})
    follower = EmbeddingStage(store, "shop", THUMBNAIL)

    assert follower.embed_available(shard) == 5
    assert follower.embed_available(shard) == 0
    assert embeddings_table(store, "shop").latest() is None
    fill(store, "shop", images | {"broken": b"no"})
    assert follower.embed_available(shard) == 4
    report = follower.run(shard)

    assert encoded_count(counter) == 9
    assert (report.embedded, report.embedded_early, report.distinct_images) == (9, 9, 10)
    assert report.statuses == {"not_image": 1, "ok": 9}
    assert follower.run(shard).embedded == 0
    other = Store.open(Path(store.url) / "other")
    embed_shards(other, "shop", THUMBNAIL, fill(other, "shop", images | {"broken": b"no"}))
    assert _rows(store, "shop").equals(_rows(other, "shop"))


def test_image_lost_during_fetch_is_retried_by_run(
    store: Store,
) -> None:
    (shard,) = fill(store, "shop", {"a": tiny(1)})
    flip_bit_in_blob(store, sha256_of(tiny(1)))
    follower = EmbeddingStage(store, "shop", THUMBNAIL)
    assert follower.embed_available(shard) == 0

    store.blobs.put(tiny(1))

    assert follower.run(shard).statuses == {"ok": 1}


def test_stopped_stage_commits_its_vectors(store: Store, counter: Path) -> None:
    (shard,) = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(400)})
    stop = threading.Event()
    stop.set()

    with pytest.raises(StoppedError):
        EmbeddingStage(store, "shop", THUMBNAIL, stop=stop).run(shard)

    assert encoded_count(counter) < 400
    assert embeddings_table(store, "shop").latest() is None


def test_embed_available_without_ledger_embeds_nothing(store: Store) -> None:
    assert EmbeddingStage(store, "shop", THUMBNAIL).embed_available(Shard(0, 1)) == 0


# ---- failures ---------------------------------------------------------------------------


def test_run_without_ledger_names_the_asset(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/images has no version yet; materialize it first"):
        embed_shards(store, "shop", THUMBNAIL, [Shard(0, 1)])


def test_run_of_unfetched_shard_names_the_shard(
    store: Store,
) -> None:
    fill_shard(store, "shop", {"a": tiny(1), "b": tiny(2), "c": tiny(3)}, Shard(0, 2))

    with pytest.raises(StoreError, match="shop/images"):
        embed_shards(store, "shop", THUMBNAIL, [Shard(1, 2)])


def test_failed_run_commits_its_vectors(
    store: Store, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(11)}
    shards = fill(store, "shop", images)
    monkeypatch.setenv(custom_encoders.MAX_IMAGES, "9")

    with pytest.raises(EncoderError, match="out of memory"):
        embed_shards(store, "shop", _own("failing"), shards)

    committed = VectorTable(store, "shop", fingerprint(_own("failing"))).keys()
    assert len(committed) == encoded_count(counter) == 9 // 3 * 3
    assert embeddings_table(store, "shop").latest() is None
    monkeypatch.setenv(custom_encoders.MAX_IMAGES, "99")
    (report,) = embed_shards(store, "shop", _own("failing"), shards)
    assert (report.embedded, report.statuses) == (2, {"ok": 11})
    assert encoded_count(counter) == 11


def test_killed_process_keeps_committed_vectors(
    store: Store, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(40)}
    shards = fill(store, "shop", images)
    monkeypatch.setenv(custom_encoders.MAX_IMAGES, "31")
    commit_at_once = f"import {vector_writer.__name__} as s; s.COMMIT_EVERY_SECONDS = 0\n"

    finished = run_python(
        commit_at_once + EMBED_AGAIN, store.url, _own("exiting").model_dump_json(), "shop"
    )

    assert finished.returncode == 137
    vectors = VectorTable(store, "shop", fingerprint(_own("exiting")))
    commit = vectors.table.latest()
    assert commit is not None
    committed = len(vectors.keys())
    # Beside the batch of three that is computed, two may wait and one may be being committed.
    assert committed == commit.rows
    assert 30 - 4 * 3 <= committed <= 30
    monkeypatch.setenv(custom_encoders.MAX_IMAGES, "99")
    (report,) = embed_shards(store, "shop", _own("exiting"), shards)
    assert (report.embedded, report.statuses) == (40 - committed, {"ok": 40})
    assert encoded_count(counter) == 30 + 40 - committed


def test_damaged_vectors_raise_and_are_recomputed_by_next_run(
    store: Store,
) -> None:
    images = {f"item{seed}": tiny(seed) for seed in range(5)}
    shards = fill(store, "shop", images)
    embed_shards(store, "shop", THUMBNAIL, shards)
    before = _vectors(store, "shop", THUMBNAIL, images)
    path = _damage_vectors(store)

    with pytest.raises(StoreError, match=f"{path} does not match.*materialize shop/embeddings"):
        IndexStage(store, "shop").run()

    (report,) = embed_shards(store, "shop", THUMBNAIL, shards)
    assert (report.embedded, report.changed) == (5, True)
    after = _vectors(store, "shop", THUMBNAIL, images)
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert IndexStage(store, "shop").run().items == 5


def test_damaged_vectors_raise_until_recomputed(
    store: Store,
) -> None:
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"a": tiny(1)}))
    _damage_vectors(store)

    for _ in range(2):
        with pytest.raises(StoreError, match="materialize shop/embeddings again"):
            IndexStage(store, "shop").run()


def test_damaged_shard_rows_are_rewritten_by_next_run(store: Store) -> None:
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(6)}, shards=2)
    embed_shards(store, "shop", THUMBNAIL, shards)
    table = embeddings_table(store, "shop")
    commit = table.latest()
    assert commit is not None
    flip_bit(store, table, commit.files[0])

    embed_shards(store, "shop", THUMBNAIL, shards)

    assert _rows(store, "shop").height == 6


def _own(function: str, version: str | None = "1") -> EncoderSettings:
    return EncoderSettings(
        name=function,
        factory=f"{custom_encoders.__name__}:{function}",
        version=version,
        device="cpu",
        batch_size=3,
    )


def _rows(store: Store, name: str) -> pl.DataFrame:
    table = embeddings_table(store, name)
    commit = table.latest()
    assert commit is not None
    return table.read(commit).sort("id")


def _vectors(
    store: Store, name: str, choice: EncoderSettings, images: Mapping[str, bytes]
) -> VectorRows:
    wanted = {sha256_of(data) for data in images.values()}
    return VectorTable(store, name, fingerprint(choice)).read(wanted)


def _versions(store: Store) -> dict[str, list[int]]:
    return {name: store.table(name).versions() for name in store.table_names()}


def _damage_vectors(store: Store) -> Path:
    table = VectorTable(store, "shop", fingerprint(THUMBNAIL)).table
    commit = table.latest()
    assert commit is not None
    return flip_bit(store, table, commit.files_with_role()[0])


def _refill_without_blobs(store: Store, images: Mapping[str, bytes], shard: Shard) -> None:
    fill_shard(store, "shop", images, shard)
    for sha256 in {sha256_of(data) for data in images.values()}:
        remove_blob(store, sha256)
