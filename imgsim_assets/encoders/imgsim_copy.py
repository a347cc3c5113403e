"""The encoder `imgsim_copy`, whose weights are part of the package.

It was trained to find edited copies; `training/copy_encoder` in the repository trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors.torch import load_file

from imgsim_assets.encoders.copy_network import DIM, SIDE, CopyNetwork
from imgsim_assets.encoders.feature_model import FeatureModel
from imgsim_assets.encoders.settings import COPY_WEIGHTS, InputSettings

WEIGHTS: Final = Path(__file__).with_name(COPY_WEIGHTS)


def load_imgsim_copy(weights: Path = WEIGHTS) -> FeatureModel:
    """The network with its weights.

    Args:
        weights: file of `training.copy_encoder.export`; default: the one of the package.
    """
    network = CopyNetwork()
    # Matrices are stored as float16.
    parts = {
        name: part.float() if part.is_floating_point() else part
        for name, part in load_file(weights).items()
    }
    network.load_state_dict(parts)
    as_for_imagenet = InputSettings()
    return FeatureModel(
        network.eval(),
        dim=DIM,
        side=SIDE,
        mean=as_for_imagenet.mean,
        std=as_for_imagenet.std,
        interpolation="BILINEAR",
    )
