"""Models of timm, loaded from a folder with their configuration and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm import data as timm_data

from imgsim_assets.encoders.feature_model import FeatureModel
from imgsim_assets.errors import EncoderError, one_line


def load_timm(folder: Path) -> FeatureModel:
    """A timm model without its classifier: pooled features as its configuration pools them.

    Raises:
        EncoderError: when the weights do not fit, or the model does not take a plain image.
    """
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except Exception as error:
        # A state dict of another model raises RuntimeError, an unknown architecture others.
        raise EncoderError(f"name: timm cannot load {folder}: {one_line(error)}") from error
    config = _data_config(model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width or not isinstance(model.num_features, int):
        raise EncoderError(
            f"name: {folder.name} takes an input of {config['input_size']}; an encoder takes "
            "square RGB images"
        )
    with torch.inference_mode():
        features = model.eval()(torch.zeros(1, 3, height, width))
    if not isinstance(features, torch.Tensor):
        raise EncoderError(f"name: {folder.name} returns {type(features).__name__}, no features")
    return FeatureModel(
        model,
        dim=features.flatten(1).shape[1],
        side=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"].upper(),
        crop_fraction=config["crop_pct"],
    )


def _data_config(model: Any) -> dict[str, Any]:
    """The input that the weights expect, as timm reads it from the model's configuration."""
    config: dict[str, Any] = timm_data.resolve_model_data_config(model)  # type: ignore[attr-defined,no-untyped-call]
    return config
