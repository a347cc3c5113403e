from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from PIL import Image

from imgsim_assets import ImageSimilarityModel
from imgsim_assets.encoders.hog_color import HogColor
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import EncoderError, SettingsError
from imgsim_assets.search import export
from imgsim_assets.search.export import parity
from imgsim_assets.search.onnx_modules import HogModule
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.weights import save_weights, untrained


def _model(encoder: str | EncoderSettings = "hog_color", **options: Any) -> ImageSimilarityModel:
    frame = pl.DataFrame(
        {
            "name": [f"image {seed}" for seed in range(8)],
            "number": range(100, 108),
            "image": pl.Series([make_image(seed) for seed in range(8)], dtype=pl.Object),
        }
    )
    options = {"label": "name", **options}
    return ImageSimilarityModel.create(
        frame, feature="image", encoder=encoder, progress=False, **options
    )


def _run_onnx(path: Path, model: ImageSimilarityModel, image: Image.Image) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(str(path))
    labels, distances = session.run(
        ["label", "distance"], {"image": model.encoder.prepare(image)[None]}
    )
    return labels[0].tolist(), distances[0]


@pytest.mark.parametrize(("label", "metric"), [("name", "euclidean"), ("number", "cosine")])
def test_exported_graph_equals_query(tmp_path: Path, label: str, metric: str) -> None:
    model = _model(label=label, metric=metric)

    result = model.export_onnx(tmp_path / "m.onnx", k=3)

    assert result.difference < 1e-4
    assert result.labels == 1.0
    for seed in (2, 50):
        labels, distances = _run_onnx(tmp_path / "m.onnx", model, make_image(seed))
        expected = model.query(make_image(seed), k=3, progress=False)
        assert labels == expected["reference_label"].to_list()
        assert distances == pytest.approx(expected["distance"].to_list(), abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_network_is_exported_with_its_normalization(tmp_path: Path) -> None:
    weights = save_weights(untrained("resnet18"), tmp_path / "resnet18.pth")
    model = _model(EncoderSettings(name="resnet18", weights=weights, device="cpu"))

    model.export_onnx(tmp_path / "m.onnx", k=4)

    images = [make_image(seed) for seed in range(8)]
    result = parity(model._parts.references, model._parts.embedder, tmp_path / "m.onnx", images)
    assert result.images == 8
    assert result.difference < 1e-3


def test_hog_module_equals_the_hog_color_encoder() -> None:
    import torch

    encoder = HogColor()
    flat = [Image.new("RGB", (50, 50), color) for color in ((128,) * 3, (200, 30, 30))]
    batch = np.stack([encoder.prepare(image) for image in [*map(make_image, range(12)), *flat]])

    result = HogModule()(torch.from_numpy(batch)).numpy()

    assert np.abs(result - encoder.encode(batch)).max() < 1e-4


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "a_package_that_nobody_has"))

    with pytest.raises(SettingsError, match=r"needs a_package_that_nobody_has; .*\[onnx\]"):
        _model().export_onnx(tmp_path / "m.onnx")


def test_export_errors_name_the_cause(tmp_path: Path) -> None:
    model = _model()

    with pytest.raises(SettingsError, match="k is 9; it must be between 1 and the model's 8"):
        model.export_onnx(tmp_path / "m.onnx", k=9)
    with pytest.raises(SettingsError, match="path: there is no folder"):
        model.export_onnx(tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(EncoderError, match="ThumbnailEncoder is not a torch module"):
        _model(THUMBNAIL).export_onnx(tmp_path / "m.onnx")


def test_export_with_different_results_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_TOLERANCE", -1.0)

    with pytest.raises(EncoderError, match=r"differ from the model's .* nothing was written"):
        _model().export_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
