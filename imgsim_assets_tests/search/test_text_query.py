"""Queries by text, with an encoder that has a text tower."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.model import ImageSimilarityModel
from imgsim_assets_tests.support import tiny_models
from imgsim_assets_tests.support.images import make_image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageSimilarityModel:
    folder = tiny_models.save_siglip(tmp_path_factory.mktemp("model") / "siglip")
    images = pl.DataFrame({"name": ["a", "b", "c"], "image": [make_image(n) for n in range(3)]})
    encoder = {"name": f"local-dir:{folder}", "device": "cpu"}
    return ImageSimilarityModel.create(images, label="name", encoder=encoder, progress=False)


def test_texts_find_their_nearest_items_with_the_columns_of_a_query(
    model: ImageSimilarityModel,
) -> None:
    found = model.query(text=["red shoe", "blue hat"], k=2)

    assert found.columns == ["query_label", "reference_label", "distance", "rank"]
    assert found["query_label"].to_list() == ["red shoe"] * 2 + ["blue hat"] * 2
    assert found["rank"].to_list() == [1, 2, 1, 2]
    assert found.filter(pl.col("query_label") == "red shoe")["distance"].is_sorted()
    alone = model.query(text="red shoe", k=2)
    assert alone["reference_label"].to_list() == found["reference_label"].to_list()[:2]
    assert alone["distance"].to_list() == pytest.approx(found["distance"].to_list()[:2], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "none of them empty"),
        ({"text": []}, "none of them empty"),
        ({"text": "red", "dataset": ["a.jpg"]}, "either texts or a dataset"),
        ({"text": "red", "orientations": True}, "either texts or a dataset"),
        ({}, "dataset: give images or vectors"),
    ],
)
def test_wrong_query_names_the_argument(
    arguments: dict[str, object], message: str, model: ImageSimilarityModel
) -> None:
    with pytest.raises(SettingsError, match=message):
        model.query(**arguments)  # type: ignore[arg-type]


def test_encoder_without_a_text_tower_says_so(tmp_path: Path) -> None:
    images = pl.DataFrame({"image": [make_image(1)]})
    model = ImageSimilarityModel.create(images, encoder="hog_color", progress=False)

    with pytest.raises(SettingsError, match="hog_color cannot encode texts; use one with a text"):
        model.query(text="red shoe")


def test_model_of_another_library_has_a_summary(model: ImageSimilarityModel) -> None:
    summary = model.summary("dict")

    assert summary["feature_length"] == 32
    assert summary["input_image_shape"] is None
