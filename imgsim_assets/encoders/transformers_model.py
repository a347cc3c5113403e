"""Models of transformers: image features of vision models and of models of image and text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from imgsim_assets.encoders.feature_model import Channels, EncodeText, FeatureModel, Features
from imgsim_assets.errors import EncoderError, one_line

_PROCESSOR = "preprocessor_config.json"
# Pillow's resampling methods by their number, as processors write them.
_METHODS = {0: "NEAREST", 1: "LANCZOS", 2: "BILINEAR", 3: "BICUBIC", 4: "BOX", 5: "HAMMING"}
_HALF: Channels = (0.5, 0.5, 0.5)


def load_transformers(folder: Path, pool: str | None) -> FeatureModel:
    """A transformers model of images.

    Args:
        folder: has config.json and safetensors, and best preprocessor_config.json.
        pool: cls, mean or pooler; None for the model's image features, else its pooler.

    Raises:
        EncoderError: when it cannot be loaded, is not a model of images, or has no such pool.
    """
    try:
        with _without_its_log():
            model, loading = AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are missing weights, with a message of ours
                output_loading_info=True,
            )
    except Exception as error:
        # An unknown model_type, code of the repository, weights that do not fit.
        raise EncoderError(f"name: transformers cannot load {folder}: {one_line(error)}") from error
    missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    _check_weights_are_complete(sorted(missing), folder, pool)
    processor = _read_processor(folder)
    side = _side(model, processor, folder)
    module = Features(model.eval(), _image_features if pool is None else _pooled(pool))
    with torch.inference_mode():
        features = _probe(module, side, folder, pool)
    return FeatureModel(
        module,
        dim=features.flatten(1).shape[1],
        side=side,
        mean=tuple(processor.get("image_mean") or _HALF),
        std=tuple(processor.get("image_std") or _HALF),
        interpolation=_METHODS[processor.get("resample", 3)],
        crop_fraction=_crop_fraction(processor, side),
        encode_text=_text_encoder(model, folder) if hasattr(model, "get_text_features") else None,
    )


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Silence the table of weights that transformers logs; the caller checks them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_weights_are_complete(missing: list[str], folder: Path, pool: str | None) -> None:
    """Raise EncoderError for a model some of whose weights would be random numbers."""
    in_pooler = [key for key in missing if "pooler." in key]
    others = [key for key in missing if key not in in_pooler]
    if others:
        raise EncoderError(
            f"name: the weights in {folder} do not fit its config.json: they lack {others[0]} and "
            f"{len(others) - 1} others"
        )
    if in_pooler and pool in (None, "pooler"):
        raise EncoderError(
            f"name: the pooler of {folder} has no weights; set 'pool: cls' or 'pool: mean'"
        )


def _read_processor(folder: Path) -> dict[str, Any]:
    path = folder / _PROCESSOR
    try:
        processor: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise EncoderError(f"name: {path} is not JSON: {error}") from error
    return processor


def _side(model: Any, processor: dict[str, Any], folder: Path) -> int:
    """The edge of the input in pixels: of the processor, else of the configuration."""
    if "naflex" in model.config.model_type or "pixel_attention_mask" in processor.get(
        "model_input_names", []
    ):
        raise EncoderError(
            f"name: {folder} takes patches of any aspect ratio (NaFlex), not one square image; "
            "use the variant of the model with a fixed resolution"
        )
    size = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = size or processor.get("size") or {}
    if isinstance(size, int):
        return size
    side = size.get("height") or size.get("shortest_edge")
    if side is None:
        config = getattr(model.config, "vision_config", model.config)
        side = getattr(config, "image_size", None) or 224
    return int(side)


def _crop_fraction(processor: dict[str, Any], side: int) -> float:
    size = processor.get("size")
    edge = size.get("shortest_edge", side) if isinstance(size, dict) else (size or side)
    return side / edge if processor.get("do_center_crop") else 1.0


def _probe(module: nn.Module, side: int, folder: Path, pool: str | None) -> torch.Tensor:
    try:
        features = module(torch.zeros(1, 3, side, side))
    except Exception as error:
        raise EncoderError(
            f"name: {folder} does not turn an image of {side} pixels into features with "
            f"'pool: {pool or 'null'}' ({one_line(error)})"
        ) from error
    if not isinstance(features, torch.Tensor) or features.flatten(1).shape[1] == 0:
        raise EncoderError(
            f"name: {folder} has no pooled features; set 'pool: cls' or 'pool: mean'"
        )
    return features


def _image_features(model: Any, pixels: torch.Tensor) -> Any:
    """The image features of a model of image and text, else the pooled features."""
    if hasattr(model, "get_image_features"):
        output = model.get_image_features(pixel_values=pixels)
        return output if isinstance(output, torch.Tensor) else output.pooler_output
    return _pooler(model, pixels)


def _pooled(pool: str) -> Any:
    return {"cls": _first_token, "mean": _mean_token, "pooler": _pooler}[pool]


def _vision(model: Any) -> Any:
    return getattr(model, "vision_model", model)


def _first_token(model: Any, pixels: torch.Tensor) -> Any:
    return _tokens(model, pixels)[:, 0]


def _mean_token(model: Any, pixels: torch.Tensor) -> Any:
    tokens = _tokens(model, pixels)
    return tokens.mean(dim=1) if tokens.ndim == 3 else tokens.mean(dim=(2, 3))


def _tokens(model: Any, pixels: torch.Tensor) -> Any:
    return _vision(model)(pixel_values=pixels).last_hidden_state


def _pooler(model: Any, pixels: torch.Tensor) -> Any:
    output = _vision(model)(pixel_values=pixels).pooler_output
    return output.flatten(1)


def _text_encoder(model: Any, folder: Path) -> EncodeText | None:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception:
        # The folder has the image tower's files alone; images are encoded without a tokenizer.
        return None
    length = model.config.text_config.max_position_embeddings

    def encode(texts: list[str]) -> NDArray[np.float32]:
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.inference_mode():
            output = model.get_text_features(input_ids=tokens["input_ids"].to(model.device))
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        rows: NDArray[np.float32] = features.float().cpu().numpy()
        return rows

    return encode
