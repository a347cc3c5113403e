"""Loads a saved model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgsim_assets.search.model import ImageSimilarityModel


def load_model(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    weights: str | None = None,
    factory: str | None = None,
) -> ImageSimilarityModel:
    """Load a model that `ImageSimilarityModel.save` wrote.

    Args:
        path: the folder.
        device: where to encode images; default the first GPU, else the CPU.
        weights: the path of the weights file on this machine. It must be the file that the
            model was created with; the first image that is encoded verifies it.
        factory: the factory of the model's encoder, as "package.module:function". The code that
            a model names runs only if it is given here.

    Returns:
        The model.

    Raises:
        StoreError: when there is no saved model, or one of another format.
        CorruptFileError: when a file was truncated or changed.
        SettingsError: for a wrong device or path of weights.
    """
    from imgsim_assets.search.model import ImageSimilarityModel
    from imgsim_assets.search.saved_model import read_model

    return ImageSimilarityModel(read_model(Path(path), device, weights, factory))
