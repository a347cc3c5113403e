from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from imgsim_assets import ImageSimilarityModel, load_model
from imgsim_assets.errors import (
    SettingsError,
)
from imgsim_assets.images.decode import decode
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    noise_image,
    query_model,
)

SCHEMA = {
    "query_label": pl.Int64,
    "reference_label": pl.Int64,
    "distance": pl.Float64,
    "rank": pl.Int32,
}


# ---- white and black noise images ---------------------------------------------------


@pytest.fixture(scope="module")
def noise() -> ImageSimilarityModel:
    white = [noise_image(235, seed) for seed in range(5)]
    black = [noise_image(20, seed) for seed in range(5, 10)]
    frame = pl.DataFrame({"awesome_image": pl.Series(white + black, dtype=pl.Object)})
    return create_model(
        frame.with_row_index("id").cast({"id": pl.Int64}), label="id", encoder=THUMBNAIL
    )


def test_query_finds_images_of_the_same_kind(
    noise: ImageSimilarityModel,
) -> None:
    result = query_model(noise, [noise_image(235, 77), noise_image(20, 78)])

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

    loaded = load_model(tmp_path / "white_and_black.model", factory=THUMBNAIL.factory)

    query = [noise_image(235, 77), noise_image(20, 78)]
    assert query_model(loaded, query).equals(query_model(noise, query))
    assert loaded.similarity_graph(output_type="frame").equals(
        noise.similarity_graph(output_type="frame")
    )
    assert loaded.summary("dict") == noise.summary("dict")


# ---- query --------------------------------------------------------------------------


def test_image_finds_itself_at_distance_zero(images: pl.DataFrame) -> None:
    model = create_model(images, label="name", feature="path")

    result = query_model(model, images, label="name", feature="path", k=1)

    assert result["query_label"].to_list() == list("abcdef")
    assert result["reference_label"].to_list() == list("abcdef")
    assert result["distance"].to_list() == [0.0] * 6


def test_query_accepts_every_form_of_an_image(images: pl.DataFrame) -> None:
    model = create_model(images, label="name", feature="path")
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
        result = query_model(model, form, k=2)

        assert result["query_label"].to_list() == [0, 0]
        assert result["reference_label"][0] == "d"
        assert result["distance"][0] == 0.0
        assert result["distance"][1] > 0.1


def test_default_labels_are_row_numbers_from_zero(images: pl.DataFrame) -> None:
    model = create_model(images["path"].to_list())

    result = query_model(model, images["path"].to_list()[2:4], k=1)

    assert result.select("query_label", "reference_label").rows() == [(0, 2), (1, 3)]


@pytest.mark.parametrize("label", ["name", "number"])
def test_labels_are_text_or_integers(images: pl.DataFrame, label: str) -> None:
    model = create_model(images, label=label, feature="path")

    result = query_model(model, images.head(1), label=label, feature="path", k=1)

    assert result.row(0)[:2] == (images[label][0], images[label][0])


def test_k_and_radius_limit_the_neighbors(images: pl.DataFrame) -> None:
    model = create_model(images, feature="path")
    everything = query_model(model, images, feature="path", k=None)
    third = everything.filter(pl.col("query_label") == 0)["distance"][2]

    within = query_model(model, images.head(1), feature="path", k=None, radius=third)
    two = query_model(model, images.head(1), feature="path", k=2, radius=third)

    assert everything.height == 36
    assert within["rank"].to_list() == [1, 2, 3]
    assert within["distance"][2] == third
    assert two["rank"].to_list() == [1, 2]
    assert query_model(model, images, feature="path", k=99).equals(everything)
    assert query_model(model, [make_image(99)], k=None, radius=0).schema == SCHEMA
    assert query_model(model, [make_image(99)], k=None, radius=0).height == 0


def test_cosine_distance_is_one_minus_the_cosine(images: pl.DataFrame) -> None:
    euclid = query_model(create_model(images, feature="path"), images, feature="path", k=None)
    cosine = query_model(
        create_model(images, feature="path", metric="cosine"), images, feature="path", k=None
    )

    assert cosine.select("query_label", "reference_label", "rank").equals(
        euclid.select("query_label", "reference_label", "rank")
    )
    assert (cosine["distance"] - euclid["distance"] ** 2 / 2).abs().max() < 1e-12  # type: ignore[operator]


def test_given_vectors_are_not_normalized() -> None:
    model = create_model(
        pl.DataFrame({"id": ["o", "p"], "v": [[0.0, 0.0], [3.0, 4.0]]}), label="id"
    )

    result = query_model(model, [0.0, 0.0], k=None)

    assert result.select("reference_label", "distance").rows() == [("o", 0.0), ("p", 5.0)]


def test_rotated_or_mirrored_image_is_found(
    images: pl.DataFrame,
) -> None:
    model = create_model(images, label="name", feature="path")
    original = decode(Path(images["path"][1]).read_bytes())
    views = {
        "rotated_90": original.transpose(Image.Transpose.ROTATE_270),
        "rotated_180": original.transpose(Image.Transpose.ROTATE_180),
        "mirrored": original.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "mirrored_rotated_270": original.transpose(Image.Transpose.TRANSVERSE),
        "upright": original,
    }

    for name, turned in views.items():
        plain = query_model(model, turned, k=1)
        result = query_model(model, turned, k=3, orientations=True)

        assert result.columns[-1] == "orientation"
        assert result.row(0, named=True)["orientation"] == name
        assert result["reference_label"][0] == "b"
        assert result["distance"][0] < 1e-3
        assert result["rank"].to_list() == [1, 2, 3]
        assert result["reference_label"].n_unique() == 3
        assert (plain["distance"][0] < 1e-3) == (name == "upright")


def test_orientations_reject_vectors(noise: ImageSimilarityModel) -> None:
    with pytest.raises(SettingsError, match="orientations: vectors cannot be rotated"):
        query_model(noise, noise.vectors, orientations=True)


# ---- graph --------------------------------------------------------------------------


def test_self_edges_are_optional() -> None:
    same = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    model = create_model(np.array(same))

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


# ---- changes ------------------------------------------------------------------------


def test_add_encodes_only_new_images(
    images: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))
    model = create_model(images.head(4), label="name", feature="path", encoder=THUMBNAIL)

    model.add(images.tail(2), label="name", feature="path", progress=False)
    model.remove("b")
    model.remove(["c", "d"])

    assert encoded_count(counter) == 6
    fresh = create_model(
        images.filter(pl.col("name").is_in(list("aef"))),
        label="name",
        feature="path",
        encoder=THUMBNAIL,
    )
    assert model.labels.to_list() == ["a", "e", "f"]
    assert query_model(model, make_image(40)).equals(query_model(fresh, make_image(40)))
    with pytest.raises(SettingsError, match="there is no item 'b'"):
        model.remove(["a", "b"])
    assert len(model) == 3


def test_default_labels_of_added_items_follow_the_largest() -> None:
    model = create_model([make_image(0), make_image(1)])

    model.remove(0)
    model.add([make_image(2), make_image(3)], progress=False)

    assert model.labels.to_list() == [1, 2, 3]


def test_model_can_be_emptied_and_refilled() -> None:
    model = create_model([make_image(0)])

    model.remove([0])

    assert query_model(model, make_image(0)).height == 0
    assert model.similarity_graph().edges.height == 0
    model.add(make_image(5), progress=False)
    assert query_model(model, make_image(5))["distance"].to_list() == [0.0]


def test_summary_is_printed_or_returned(capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model([make_image(0), make_image(1)])

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


def test_notebook_shows_the_summary_of_a_model() -> None:
    model = create_model(pl.DataFrame({"<b>": [1], "image": [make_image(0)]}), label="<b>")

    html = model._repr_html_()

    assert (
        "<th style='text-align: left'>num_examples</th><td style='text-align: left'>1</td>" in html
    )
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


# ---- errors -------------------------------------------------------------------------


def test_query_must_fit_the_model(noise: ImageSimilarityModel) -> None:
    with pytest.raises(SettingsError, match="its vectors have 2 numbers, the model's 192"):
        query_model(noise, [1.0, 2.0])
    with pytest.raises(SettingsError, match="output_type is 'SGraph'; use 'graph' or 'frame'"):
        noise.similarity_graph(output_type="SGraph")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="output is 'json'"):
        noise.summary("json")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="label: the new labels are String, the model's Int64"):
        noise.add(pl.DataFrame({"n": ["x"], "path": ["y"]}), label="n", feature="path")


def test_query_with_another_encoder_is_an_error() -> None:
    model = create_model([[1.0, 0.0], [0.0, 1.0]])

    with pytest.raises(SettingsError, match="the encoder's vectors have 772 numbers"):
        query_model(model, make_image(0))
