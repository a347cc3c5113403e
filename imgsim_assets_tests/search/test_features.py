from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from imgsim_assets import extract_features
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    query_model,
)


def test_model_of_features_equals_model_of_images(images: pl.DataFrame, tmp_path: Path) -> None:
    given = images.with_columns(
        extract_features(images, "hog_color", feature="path", progress=False)
    )
    given.write_parquet(tmp_path / "features.parquet")
    features = pl.read_parquet(tmp_path / "features.parquet")

    from_features = create_model(features, label="name")
    from_images = create_model(images, label="name", feature="path")

    assert from_features.summary("dict")["feature"] == "features"
    assert (from_features.vectors == from_images.vectors).all()
    assert query_model(from_features, make_image(50)).equals(
        query_model(from_images, make_image(50))
    )


def test_extract_features_without_normalization_keeps_lengths(images: pl.DataFrame) -> None:
    raw = extract_features(images, "hog_color", feature="path", normalize=False, progress=False)
    model = create_model(raw)
    rows = raw.to_numpy().astype(np.float64)

    result = query_model(model, images["path"][0], k=None)

    assert np.linalg.norm(rows, axis=1).max() > 1.01
    expected = sorted(np.linalg.norm(rows - rows[0], axis=1))
    assert result["distance"].to_list() == pytest.approx(expected, abs=1e-5)


def test_extract_features_returns_null_for_an_invalid_image(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of 2 images cannot be used"):
        result = extract_features([make_image(1), b"nothing"], "hog_color", progress=False)

    assert result.is_null().to_list() == [False, True]
    with pytest.warns(UserWarning, match="1 of 2 images cannot be used"):
        assert len(create_model(result)) == 1


def test_batch_size_does_not_change_features(images: pl.DataFrame) -> None:
    whole = extract_features(images, THUMBNAIL, feature="path", progress=False)

    assert extract_features(images, THUMBNAIL, feature="path", batch_size=1, progress=False).equals(
        whole
    )
