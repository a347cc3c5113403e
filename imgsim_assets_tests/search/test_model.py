from __future__ import annotations

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from imgsim_assets import ImageSimilarityModel, extract_features, load_model, set_num_gpus
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import (
    CorruptFileError,
    EncoderError,
    ImgsimError,
    SettingsError,
    StoreError,
)
from imgsim_assets.images.decode import decode
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.model_datasets import noise_image, write_image_folder
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.web import Web
from imgsim_assets_tests.support.weights import saved, untrained

SCHEMA = {
    "query_label": pl.Int64,
    "reference_label": pl.Int64,
    "distance": pl.Float64,
    "rank": pl.Int32,
}


def _model(dataset: Any, **options: Any) -> ImageSimilarityModel:
    options = {"encoder": "hog_color", "progress": False, **options}
    return ImageSimilarityModel.create(dataset, **options)


def _query(model: ImageSimilarityModel, dataset: Any, **options: Any) -> pl.DataFrame:
    return model.query(dataset, progress=False, **options)


@pytest.fixture
def images(tmp_path: Path) -> pl.DataFrame:
    """Six images on disk: name, path, number."""
    folder = write_image_folder(tmp_path / "images", range(6))
    paths = sorted(map(str, folder.iterdir()))
    return pl.DataFrame({"name": list("abcdef"), "path": paths, "number": range(10, 16)})


# ---- white and black noise images ---------------------------------------------------


@pytest.fixture(scope="module")
def noise() -> ImageSimilarityModel:
    white = [noise_image(235, seed) for seed in range(5)]
    black = [noise_image(20, seed) for seed in range(5, 10)]
    frame = pl.DataFrame({"awesome_image": pl.Series(white + black, dtype=pl.Object)})
    return _model(frame.with_row_index("id").cast({"id": pl.Int64}), label="id", encoder=THUMBNAIL)


def test_query_finds_images_of_the_same_kind(
    noise: ImageSimilarityModel,
) -> None:
    result = _query(noise, [noise_image(235, 77), noise_image(20, 78)])

    assert result.schema == SCHEMA
    assert result["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    of_white, of_black = (result.filter(pl.col("query_label") == label) for label in (0, 1))
    assert set(of_white["reference_label"]) == set(range(5))
    assert set(of_black["reference_label"]) == set(range(5, 10))
    assert of_white["distance"].is_sorted()


def test_graph_has_edges_to_the_nearest_items(noise: ImageSimilarityModel) -> None:
    graph = noise.similarity_graph(k=2)

    assert graph.vertices["__id"].to_list() == list(range(10))
    assert graph.edges.columns == ["__src_id", "__dst_id", "distance", "rank"]
    assert graph.edges.height == 20
    for source, target in graph.edges.select("__src_id", "__dst_id").iter_rows():
        assert source != target
        assert (source < 5) == (target < 5)
    digraph = graph.to_networkx()
    assert digraph.number_of_nodes() == 10
    assert digraph.number_of_edges() == 20
    assert digraph[0][graph.edges["__dst_id"][0]]["rank"] == 1


def test_loaded_model_returns_the_same_results(noise: ImageSimilarityModel, tmp_path: Path) -> None:
    noise.save(tmp_path / "white_and_black.model")

    loaded = load_model(tmp_path / "white_and_black.model")

    query = [noise_image(235, 77), noise_image(20, 78)]
    assert _query(loaded, query).equals(_query(noise, query))
    assert loaded.similarity_graph(output_type="frame").equals(
        noise.similarity_graph(output_type="frame")
    )
    assert loaded.summary("dict") == noise.summary("dict")


# ---- query --------------------------------------------------------------------------


def test_image_finds_itself_at_distance_zero(images: pl.DataFrame) -> None:
    model = _model(images, label="name", feature="path")

    result = _query(model, images, label="name", feature="path", k=1)

    assert result["query_label"].to_list() == list("abcdef")
    assert result["reference_label"].to_list() == list("abcdef")
    assert result["distance"].to_list() == [0.0] * 6


def test_query_accepts_every_form_of_an_image(images: pl.DataFrame) -> None:
    model = _model(images, label="name", feature="path")
    path = Path(images["path"][3])
    forms: list[Any] = [
        str(path),
        path,
        path.read_bytes(),
        Image.open(path),
        np.asarray(Image.open(path)),
        [path],
        pl.Series([path.read_bytes()]),
        pl.DataFrame({"photo": [path.read_bytes()]}),
        pd.DataFrame({"photo": [Image.open(path)]}),
        model.vectors[3],
        model.vectors[3].tolist(),
        model.vectors[3:4],
        pl.DataFrame({"v": model.vectors[3:4]}),
    ]

    for form in forms:
        result = _query(model, form, k=2)

        assert result["query_label"].to_list() == [0, 0]
        assert result["reference_label"][0] == "d"
        assert result["distance"][0] == 0.0
        assert result["distance"][1] > 0.1


def test_default_labels_are_row_numbers_from_zero(images: pl.DataFrame) -> None:
    model = _model(images["path"].to_list())

    result = _query(model, images["path"].to_list()[2:4], k=1)

    assert result.select("query_label", "reference_label").rows() == [(0, 2), (1, 3)]


@pytest.mark.parametrize("label", ["name", "number"])
def test_labels_are_text_or_integers(images: pl.DataFrame, label: str) -> None:
    model = _model(images, label=label, feature="path")

    result = _query(model, images.head(1), label=label, feature="path", k=1)

    assert result.row(0)[:2] == (images[label][0], images[label][0])


def test_k_and_radius_limit_the_neighbors(images: pl.DataFrame) -> None:
    model = _model(images, feature="path")
    everything = _query(model, images, feature="path", k=None)
    third = everything.filter(pl.col("query_label") == 0)["distance"][2]

    within = _query(model, images.head(1), feature="path", k=None, radius=third)
    two = _query(model, images.head(1), feature="path", k=2, radius=third)

    assert everything.height == 36
    assert within["rank"].to_list() == [1, 2, 3]
    assert within["distance"][2] == third
    assert two["rank"].to_list() == [1, 2]
    assert _query(model, images, feature="path", k=99).equals(everything)
    assert _query(model, [make_image(99)], k=None, radius=0).schema == SCHEMA
    assert _query(model, [make_image(99)], k=None, radius=0).height == 0


def test_cosine_distance_is_one_minus_the_cosine(images: pl.DataFrame) -> None:
    euclid = _query(_model(images, feature="path"), images, feature="path", k=None)
    cosine = _query(_model(images, feature="path", metric="cosine"), images, feature="path", k=None)

    assert cosine.select("query_label", "reference_label", "rank").equals(
        euclid.select("query_label", "reference_label", "rank")
    )
    assert (cosine["distance"] - euclid["distance"] ** 2 / 2).abs().max() < 1e-12  # type: ignore[operator]


def test_given_vectors_are_not_normalized() -> None:
    model = _model(pl.DataFrame({"id": ["o", "p"], "v": [[0.0, 0.0], [3.0, 4.0]]}), label="id")

    result = _query(model, [0.0, 0.0], k=None)

    assert result.select("reference_label", "distance").rows() == [("o", 0.0), ("p", 5.0)]


def test_rotated_or_mirrored_image_is_found(
    images: pl.DataFrame,
) -> None:
    model = _model(images, label="name", feature="path")
    original = decode(Path(images["path"][1]).read_bytes())
    views = {
        "rotated_90": original.transpose(Image.Transpose.ROTATE_270),
        "rotated_180": original.transpose(Image.Transpose.ROTATE_180),
        "mirrored": original.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "mirrored_rotated_270": original.transpose(Image.Transpose.TRANSVERSE),
        "upright": original,
    }

    for name, turned in views.items():
        plain = _query(model, turned, k=1)
        result = _query(model, turned, k=3, orientations=True)

        assert result.columns[-1] == "orientation"
        assert result.row(0, named=True)["orientation"] == name
        assert result["reference_label"][0] == "b"
        assert result["distance"][0] < 1e-3
        assert result["rank"].to_list() == [1, 2, 3]
        assert result["reference_label"].n_unique() == 3
        assert (plain["distance"][0] < 1e-3) == (name == "upright")


def test_orientations_reject_vectors(noise: ImageSimilarityModel) -> None:
    with pytest.raises(SettingsError, match="orientations: vectors cannot be rotated"):
        _query(noise, noise.vectors, orientations=True)


# ---- graph --------------------------------------------------------------------------


def test_self_edges_are_optional() -> None:
    same = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    model = _model(np.array(same))

    without = model.similarity_graph(k=2, output_type="frame")
    with_self = model.similarity_graph(k=2, include_self_edges=True, output_type="frame")

    assert without.filter(pl.col("query_label") == pl.col("reference_label")).height == 0
    assert without.group_by("query_label").len()["len"].to_list() == [2] * 4
    firsts = with_self.filter(pl.col("rank") == 1)
    assert firsts["query_label"].to_list() == firsts["reference_label"].to_list() == [0, 1, 2, 3]
    assert with_self.filter(pl.col("query_label") == 2)["reference_label"].to_list() == [2, 0]


def test_graph_is_limited_by_radius(noise: ImageSimilarityModel) -> None:
    everything = noise.similarity_graph(k=None, output_type="frame")
    near = noise.similarity_graph(k=None, radius=0.5, output_type="frame")

    assert everything.height == 90
    assert near.height == everything.filter(pl.col("distance") <= 0.5).height > 0
    assert noise.similarity_graph(k=99).edges.height == 90


# ---- datasets -----------------------------------------------------------------------


def test_pandas_and_polars_frames_give_the_same_model(images: pl.DataFrame) -> None:
    as_pandas = pd.DataFrame(images.to_dict(as_series=False))

    left = _model(images, label="number", feature="path")
    right = _model(as_pandas, label="number", feature="path")

    assert (left.vectors == right.vectors).all()
    assert left.labels.equals(right.labels)


def test_folder_is_read_sorted_by_path(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "shelf", range(3))
    (folder / "below").mkdir()
    (folder / "below" / "x.png").write_bytes(encoded(make_image(7), "PNG"))
    (folder / ".DS_Store").write_bytes(b"noise")
    (folder / "notes.txt").write_text("no image")

    model = _model(str(folder), label="path")

    names = [Path(label).name for label in model.labels]
    assert names == ["000.jpg", "001.jpg", "002.jpg", "x.png"]
    assert _model(f"{folder}/*.jpg").labels.to_list() == [0, 1, 2]


def test_urls_are_fetched_once_and_failures_are_rows(web: Web) -> None:
    web.pages["/a.jpg"] = jpeg(1)
    web.pages["/b.jpg"] = jpeg(2)
    urls = [web.url(path) for path in ("/a.jpg", "/b.jpg", "/gone.jpg", "/a.jpg")]
    allowed = DownloadSettings(allowed_hosts=(web.address,), retries=0)

    with pytest.warns(UserWarning, match=r"1 of 4 images cannot be used .*http_404"):
        model = _model({"url": urls}["url"], download=allowed)

    assert model.labels.to_list() == [0, 1, 3]
    assert model.failures.rows()[0][:2] == ("2", "http_404")
    assert web.gets["/a.jpg"] == 1


def test_urls_are_fetched_inside_a_running_event_loop(web: Web) -> None:
    web.pages["/a.jpg"] = jpeg(1)
    allowed = DownloadSettings(allowed_hosts=(web.address,))

    async def in_a_notebook() -> ImageSimilarityModel:
        return _model([web.url("/a.jpg")], download=allowed)

    assert len(asyncio.run(in_a_notebook())) == 1


def test_internal_addresses_are_refused(web: Web) -> None:
    with pytest.raises(SettingsError, match="blocked_address"):
        _model([web.url("/a.jpg")])
    assert web.total_gets == 0


def test_invalid_image_does_not_affect_the_others(images: pl.DataFrame, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(jpeg(1)[:900])
    paths = [*images["path"].to_list(), str(bad), str(tmp_path / "gone.jpg"), None]

    with pytest.warns(UserWarning, match="3 of 9 images cannot be used"):
        model = _model(pl.DataFrame({"path": paths}))

    assert len(model) == 6
    assert model.failures.select("label", "status").rows() == [
        ("6", "truncated"),
        ("7", "missing_file"),
        ("8", "no_image"),
    ]
    with pytest.raises(
        SettingsError, match=r"dataset: 3 of 9 .*bad\.jpg: truncated.*ignore_failure"
    ):
        _model(pl.DataFrame({"path": paths}), ignore_failure=False)


def test_catalog_is_read_without_computing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))
    images = {f"item{seed}": tiny(seed) for seed in range(5)}
    indexed(store, "products", {**images, "gone": None})
    before, encodings = versions(store), encoded_count(counter)

    model = _model("products", store=store)
    graph = model.similarity_graph(k=1)
    by_bytes = _query(model, images["item3"], k=1)

    assert model.labels.to_list() == sorted(images)
    assert graph.edges.height == 5
    assert by_bytes.row(0)[1:3] == ("item3", 0.0)
    assert versions(store) == before
    assert encoded_count(counter) == encodings
    assert model.summary("dict")["catalog"]["name"] == "products"
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert _query(again, tiny(99), k=2).equals(_query(model, tiny(99), k=2))


def test_unknown_catalog_is_an_error(store: Store) -> None:
    with pytest.raises(SettingsError, match="'shoes' is neither a folder nor a catalog"):
        _model("shoes", store=store)


@pytest.mark.parametrize("is_catalog", [False, True], ids=["images", "catalog"])
def test_moved_weights_file_is_accepted_if_its_content_is_the_same(
    is_catalog: bool, store: Store, tmp_path: Path
) -> None:
    weights = Path(saved(untrained("squeezenet1_1"), tmp_path / "first.pth"))
    other = saved(untrained("squeezenet1_1", seed=1), tmp_path / "other.pth")
    encoder = EncoderSettings(name="squeezenet1_1", weights=str(weights), precision="fp32")
    if is_catalog:
        indexed(store, "products", {"a": jpeg(1), "b": jpeg(2)}, encoder)
    dataset: Any = "products" if is_catalog else [jpeg(1), jpeg(2)]
    model = _model(dataset, encoder=encoder, store=store)
    model.save(tmp_path / "model")
    expected = _query(model, make_image(3))
    moved = str(weights.rename(tmp_path / "moved.pth"))

    with pytest.raises(EncoderError, match=r"first.pth, with which the model's .*weights=FILE"):
        _query(load_model(tmp_path / "model"), make_image(3))
    with pytest.raises(StoreError, match="the model's vectors were not made by the encoder"):
        _query(load_model(tmp_path / "model", weights=other), make_image(3))
    with pytest.raises(SettingsError, match="device: 'gpu' is not one of auto, cpu"):
        load_model(tmp_path / "model", device="gpu")
    if is_catalog:
        again = _model("products", store=store, weights=moved, device="cpu")
        assert _query(again, make_image(3)).equals(expected)
    loaded = load_model(tmp_path / "model", weights=moved, device="cpu")
    assert _query(loaded, make_image(3)).equals(expected)
    loaded.save(tmp_path / "model")
    assert _query(load_model(tmp_path / "model"), make_image(3)).equals(expected)


def test_changed_encoder_of_a_catalog_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "factory": f"{custom_encoders.__name__}:module",
        "device": "cpu",
        "precision": "fp32",
    }
    monkeypatch.setenv(custom_encoders.SEED, "1")
    indexed(store, "products", {"a": jpeg(1)}, EncoderSettings.model_validate(settings))
    assert _query(_model("products", store=store), make_image(2)).height == 1
    monkeypatch.setenv(custom_encoders.SEED, "2")

    with pytest.raises(StoreError, match="the model's vectors were not made by the encoder"):
        _query(_model("products", store=store), make_image(2))


# ---- features -----------------------------------------------------------------------


def test_model_of_features_equals_model_of_images(images: pl.DataFrame, tmp_path: Path) -> None:
    given = images.with_columns(
        extract_features(images, "hog_color", feature="path", progress=False)
    )
    given.write_parquet(tmp_path / "features.parquet")
    features = pl.read_parquet(tmp_path / "features.parquet")

    from_features = _model(features, label="name")
    from_images = _model(images, label="name", feature="path")

    assert from_features.summary("dict")["feature"] == "features"
    assert (from_features.vectors == from_images.vectors).all()
    assert _query(from_features, make_image(50)).equals(_query(from_images, make_image(50)))


def test_extract_features_without_normalization_keeps_lengths(images: pl.DataFrame) -> None:
    raw = extract_features(images, "hog_color", feature="path", normalize=False, progress=False)
    model = _model(raw)
    rows = raw.to_numpy().astype(np.float64)

    result = _query(model, images["path"][0], k=None)

    assert np.linalg.norm(rows, axis=1).max() > 1.01
    expected = sorted(np.linalg.norm(rows - rows[0], axis=1))
    assert result["distance"].to_list() == pytest.approx(expected, abs=1e-5)


def test_extract_features_returns_null_for_an_invalid_image(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of 2 images cannot be used"):
        result = extract_features([make_image(1), b"nothing"], "hog_color", progress=False)

    assert result.is_null().to_list() == [False, True]
    with pytest.warns(UserWarning, match="1 of 2 images cannot be used"):
        assert len(_model(result)) == 1


def test_batch_size_does_not_change_features(images: pl.DataFrame) -> None:
    whole = extract_features(images, THUMBNAIL, feature="path", progress=False)

    assert extract_features(images, THUMBNAIL, feature="path", batch_size=1, progress=False).equals(
        whole
    )


def test_queries_reuse_the_encoder_threads() -> None:
    def encoding() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("encode")}

    others = encoding()
    model = _model([noise_image(235, 1)], encoder=THUMBNAIL)
    threads = encoding() - others
    for seed in range(5):
        _query(model, [noise_image(235, seed + 78)])

    assert threads
    assert encoding() - others == threads


def test_set_num_gpus_applies_to_new_encoders(tmp_path: Path) -> None:
    weights = saved(untrained("resnet18"), tmp_path / "resnet18.pth")
    try:
        set_num_gpus(1000)
        with pytest.raises(EncoderError, match="does not have 1000"):
            _model([make_image(0)], encoder=EncoderSettings(name="resnet18", weights=weights))
        set_num_gpus(0)
        model = _model([make_image(0)], encoder=EncoderSettings(name="resnet18", weights=weights))
        assert str(getattr(model.encoder, "device", "")) == "cpu"
        with pytest.raises(SettingsError, match="count is -2; use -1"):
            set_num_gpus(-2)
    finally:
        set_num_gpus(-1)


# ---- changes ------------------------------------------------------------------------


def test_add_encodes_only_new_images(
    images: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))
    model = _model(images.head(4), label="name", feature="path", encoder=THUMBNAIL)

    model.add(images.tail(2), label="name", feature="path", progress=False)
    model.remove("b")
    model.remove(["c", "d"])

    assert encoded_count(counter) == 6
    fresh = _model(
        images.filter(pl.col("name").is_in(list("aef"))),
        label="name",
        feature="path",
        encoder=THUMBNAIL,
    )
    assert model.labels.to_list() == ["a", "e", "f"]
    assert _query(model, make_image(40)).equals(_query(fresh, make_image(40)))
    with pytest.raises(SettingsError, match="there is no item 'b'"):
        model.remove(["a", "b"])
    assert len(model) == 3


def test_default_labels_of_added_items_follow_the_largest() -> None:
    model = _model([make_image(0), make_image(1)])

    model.remove(0)
    model.add([make_image(2), make_image(3)], progress=False)

    assert model.labels.to_list() == [1, 2, 3]


def test_model_can_be_emptied_and_refilled() -> None:
    model = _model([make_image(0)])

    model.remove([0])

    assert _query(model, make_image(0)).height == 0
    assert model.similarity_graph().edges.height == 0
    model.add(make_image(5), progress=False)
    assert _query(model, make_image(5))["distance"].to_list() == [0.0]


# ---- files --------------------------------------------------------------------------


def test_save_replaces_only_a_saved_model(tmp_path: Path) -> None:
    _model([make_image(0)]).save(tmp_path / "m")
    _model([make_image(0), make_image(1)]).save(tmp_path / "m")
    (tmp_path / "thesis").mkdir()

    assert len(load_model(tmp_path / "m")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "thesis"]
    with pytest.raises(SettingsError, match=r"thesis exists and is not a saved model"):
        _model([make_image(0)]).save(tmp_path / "thesis")


def test_load_rejects_other_formats_and_corrupt_files(tmp_path: Path) -> None:
    model = _model([make_image(0)])
    for name in ("newer", "damaged", "cut"):
        model.save(tmp_path / name)
    document = tmp_path / "newer" / "model.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "format": 2}))
    references = tmp_path / "damaged" / "references.parquet"
    references.write_bytes(references.read_bytes()[:-1] + b"?")
    (tmp_path / "cut" / "model.json").write_text("{")

    with pytest.raises(StoreError, match=r"saved in format 2, .* reads format 1"):
        load_model(tmp_path / "newer")
    with pytest.raises(CorruptFileError, match="does not match the checksum"):
        load_model(tmp_path / "damaged")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        load_model(tmp_path / "cut")
    with pytest.raises(StoreError, match="holds no saved model"):
        load_model(tmp_path)


def test_summary_is_printed_or_returned(capsys: pytest.CaptureFixture[str]) -> None:
    model = _model([make_image(0), make_image(1)])

    facts = model.summary("dict")

    assert model.summary() is None
    assert capsys.readouterr().out.strip() == model.summary("str")
    assert {key: facts[key] for key in ("model", "num_examples", "input_image_shape")} == {
        "model": "hog_color",
        "num_examples": 2,
        "input_image_shape": (112, 112, 3),
    }
    assert facts["training_time"] > 0
    assert "num_examples      : 2" in model.summary("str")
    assert repr(model) == "ImageSimilarityModel(2 items, hog_color, euclidean)"


# ---- errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ([], {}, "dataset is empty; give at least one row"),
        (pl.DataFrame({"path": []}, schema={"path": pl.String}), {}, "dataset is empty"),
        (
            pl.DataFrame({"path": ["x"]}),
            {"label": "id"},
            "label: dataset has no column 'id'; it",
        ),
        (pl.DataFrame({"path": ["x"]}), {"feature": "im"}, "feature: dataset has no column 'im'"),
        (pl.DataFrame({"a": [1], "b": [2]}), {}, "feature: no column of dataset is clearly"),
        (pl.DataFrame({"a": ["x"], "b": ["y"]}), {}, "feature: no column .* name one of 'a', 'b'"),
        (pl.DataFrame({"a": [b"x"], "b": [b"y"]}), {}, "feature: 'a', 'b' are candidates"),
        (pl.DataFrame({"a": [1.5], "p": ["x"]}), {"label": "a"}, "label: column 'a' holds Float64"),
        (pl.DataFrame({"a": [1], "p": ["x"]}), {"feature": "a"}, "feature: column 'a' holds Int64"),
        (pl.DataFrame({"a": [1, None], "p": ["x"] * 2}), {"label": "a"}, "'a' is null in row 1"),
        (
            pl.DataFrame({"a": [1, 1], "v": [[1.0]] * 2}),
            {"label": "a"},
            "label: 1 is not unique",
        ),
        ([[1.0, 2.0], [1.0]], {}, "have 1 and 2 numbers; all must have the same"),
        ([[1.0, math.inf]], {}, "the vector of row 0 is not finite"),
        ([object()], {}, "dataset row 0 .* is object; give a PIL image"),
        (17, {}, "dataset is int; give a frame of polars or pandas"),
        (["gone.jpg"], {}, r"1 of 1 images cannot be used \(gone.jpg: missing_file"),
        ([b"x"], {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ([b"x"], {"metric": "l1"}, "metric is 'l1'; use 'euclidean' or 'cosine'"),
        ([b"x"], {"encoder": "hog_colour"}, "encoder: .*did you mean hog_color"),
        ([[0.0, 0.0]], {"metric": "cosine"}, "row 0 is zero and has no cosine"),
    ],
)
def test_wrong_arguments_are_named_with_the_fix(
    dataset: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        _model(dataset, **options)


def test_query_must_fit_the_model(noise: ImageSimilarityModel) -> None:
    with pytest.raises(SettingsError, match="its vectors have 2 numbers, the model's 192"):
        _query(noise, [1.0, 2.0])
    with pytest.raises(SettingsError, match="output_type is 'SGraph'; use 'graph' or 'frame'"):
        noise.similarity_graph(output_type="SGraph")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="output is 'json'"):
        noise.summary("json")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="label: the new labels are String, the model's Int64"):
        noise.add(pl.DataFrame({"n": ["x"], "path": ["y"]}), label="n", feature="path")


def test_query_with_another_encoder_is_an_error() -> None:
    model = _model([[1.0, 0.0], [0.0, 1.0]])

    with pytest.raises(SettingsError, match="the encoder's vectors have 772 numbers"):
        _query(model, make_image(0))


def test_missing_weights_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    settings = EncoderSettings(name="resnet18", weights=str(tmp_path / "gone.pth"))

    with pytest.raises(ImgsimError, match=r"gone\.pth"):
        _model([make_image(0)], encoder=settings)
