from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from pydantic import ValidationError

from imgsim_assets.encoders import encoder as encoder_module
from imgsim_assets.encoders import fused_convolution, linear_fusion
from imgsim_assets.encoders.description import describe_encoder
from imgsim_assets.encoders.encoder import fingerprint, load_encoder
from imgsim_assets.encoders.settings import COPY_WEIGHTS, EncoderSettings
from imgsim_assets.images.perturbations import perturb
from imgsim_assets_tests.support.images import make_image

_SETTINGS = EncoderSettings(name="imgsim_copy", device="cpu")
_PHOTOGRAPHS = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"]
# hog_color finds none of the last four.
_EDITS = ["tight_crop", "text_overlay", "gray", "flip", "pad", "screenshot", "photograph"]


def _vectors(images: list[Image.Image]) -> np.ndarray:
    encoder = load_encoder(_SETTINGS)
    rows: np.ndarray = encoder.encode(np.stack([encoder.prepare(image) for image in images]))
    return rows


def test_package_contains_weights_of_at_most_6_megabytes() -> None:
    weights = files("imgsim_assets.encoders") / COPY_WEIGHTS

    assert 1_000_000 < len(weights.read_bytes()) <= 6_000_000


def test_vectors_are_256_numbers_of_unit_length() -> None:
    rows = _vectors([make_image(1), make_image(2, (40, 300)), make_image(3, (20, 20))])

    assert rows.shape == (3, 256)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_strongly_edited_copies_are_nearest_to_their_original() -> None:
    folder = Path(skimage.__file__).parent / "data"
    originals = [Image.open(folder / name).convert("RGB") for name in _PHOTOGRAPHS]
    copies = [perturb(image, edit, 1) for image in originals for edit in _EDITS]

    cosines = _vectors(copies) @ _vectors(originals).T

    own = np.arange(len(copies)) // len(_EDITS)
    assert (cosines.argmax(axis=1) == own).all()


def test_vectors_do_not_depend_on_the_fusion_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = _vectors([make_image(seed) for seed in range(4)])
    for module in (fused_convolution, linear_fusion):
        monkeypatch.setattr(module, "agrees_with_torch", lambda *_: False)

    plain = _vectors([make_image(seed) for seed in range(4)])

    np.testing.assert_allclose(fused, plain, atol=1e-5)


def test_fingerprint_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(_SETTINGS)
    monkeypatch.setattr(encoder_module, "COPY_WEIGHTS", "hog_color.py")

    assert fingerprint(_SETTINGS) != before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("precision", "bf16", "imgsim_copy computes in fp32 only"),
        ("resize", "weights_transform", "the weights of imgsim_copy have no transform"),
        ("weights", "own.pth", "weights: imgsim_copy takes none"),
        ("revision", "main", "revision: imgsim_copy takes none"),
    ],
)
def test_key_that_it_does_not_have_is_rejected(key: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderSettings.model_validate({"name": "imgsim_copy", key: value})


def test_description_names_the_weights_of_the_package() -> None:
    description = describe_encoder(_SETTINGS)

    assert (description.dim, description.side) == (256, 208)
    assert description.license == "Apache-2.0"
    assert Path(str(description.weights)).name == COPY_WEIGHTS
    assert description.threshold == _SETTINGS.recommended_threshold
