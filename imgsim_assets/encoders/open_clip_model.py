"""Models of OpenCLIP: the image tower, and the text tower for queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from imgsim_assets.encoders.feature_model import EncodeText, FeatureModel, Features
from imgsim_assets.errors import EncoderError, one_line


def load_open_clip(name: str, tag: str | None) -> FeatureModel:
    """An OpenCLIP model: by architecture and tag of its weights, or `local-dir:FOLDER`.

    Raises:
        EncoderError: when it cannot be loaded; says what to do.
    """
    if tag is not None and tag not in open_clip.list_pretrained_tags_by_model(name):
        known = open_clip.list_pretrained_tags_by_model(name)
        hint = f"its tags are {', '.join(known)}" if known else "OpenCLIP has no such model"
        raise EncoderError(f"name: open_clip/{name}/{tag} does not exist: {hint}")
    try:
        model: Any = open_clip.create_model(name, pretrained=tag, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        # No network, another architecture's weights, a missing file of the tokenizer.
        raise EncoderError(
            f"name: OpenCLIP cannot load {name} ({one_line(error)}); where the "
            f"network allows it, run 'imgsim encoder pull open_clip/{name}/{tag}', or use a folder "
            "with its files: 'local-dir:FOLDER'"
        ) from error
    config = model.visual.preprocess_cfg
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise EncoderError(f"name: {name} takes images of {size}; an encoder takes square ones")
    module = Features(model.eval(), _image_features)
    with torch.inference_mode():
        features = module(torch.zeros(1, 3, height, width))
    return FeatureModel(
        module,
        dim=features.shape[1],
        side=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"].upper(),
        encode_text=_text_encoder(model, tokenizer),
    )


def _image_features(model: Any, pixels: torch.Tensor) -> Any:
    return model.encode_image(pixels)


def _text_encoder(model: Any, tokenizer: Any) -> EncodeText:
    def encode(texts: list[str]) -> NDArray[np.float32]:
        parameter = next(model.parameters())
        with torch.inference_mode():
            features = model.encode_text(tokenizer(texts).to(parameter.device))
        rows: NDArray[np.float32] = features.float().cpu().numpy()
        return rows

    return encode
