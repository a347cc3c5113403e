"""Torchvision's models with their weights and without their classifier."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import IMGSIM_COPY, EncoderSettings
from imgsim_assets.errors import EncoderError, one_line

# These two normalize their input again unless it is declared as normalized with ImageNet's mean
# and deviation, and they have auxiliary outputs for training.
_INCEPTIONS = ("googlenet", "inception_v3")
# Published densenet weights name layers "norm.1", which torch now calls "norm1".
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def load_feature_model(settings: EncoderSettings) -> tuple[nn.Module, int]:
    """The model without its classifier, and the edge of its square input in pixels.

    Raises:
        EncoderError: when weights cannot be loaded or do not fit; says how to fix it.
    """
    size = BACKBONES[settings.name].input_size(settings.weights)
    if settings.weights_file is None:
        return feature_model(_torchvision_model(settings), settings.name), size
    state = _load_state_dict(settings.weights_file)
    size = _vision_transformer_size({key: part.shape for key, part in state.items()}) or size
    model = _from_state(settings.name, settings.weights_file, state, size)
    return feature_model(model, settings.name), size


def weights_enum(settings: EncoderSettings) -> Any:
    """Torchvision's entry of the weights; of the default weights for a weights file."""
    published = torchvision.models.get_model_weights(settings.name)
    name = settings.weights if settings.weights_file is None else None
    return published[name or BACKBONES[settings.name].default_weights]


def normalization(settings: EncoderSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel that the weights expect, in units of 0 to 1."""
    transform = weights_enum(settings).transforms()
    return tuple(transform.mean), tuple(transform.std)


def _torchvision_model(settings: EncoderSettings) -> nn.Module:
    weights = weights_enum(settings)
    try:
        model: nn.Module = torchvision.models.get_model(settings.name, weights=weights)
    except Exception as error:
        # No network, a full disk, or a damaged file in torch's cache.
        raise EncoderError(
            f"the weights {weights.name} of {settings.name} cannot be loaded from {weights.url} or "
            f"torch's cache {torch.hub.get_dir()} ({one_line(error)}); set 'weights: PATH' of the "
            f"encoder to a copy of that file, or use 'encoder: {IMGSIM_COPY}', whose weights are "
            "part of the package"
        ) from error
    return model


def _load_state_dict(path: str) -> dict[str, torch.Tensor]:
    if path.endswith(".safetensors"):
        return _load_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler may raise anything on another kind of file.
        raise EncoderError(
            f"weights: {path} is not a state dict saved with torch.save: {one_line(error)}"
        ) from error
    other_type = _describe_other_type(state)
    if other_type is not None:
        raise EncoderError(
            f"weights: {path} is not a state dict, but a {other_type}; save model.state_dict()"
        )
    # Not a copy, which would lack the module versions: they are attributes of the object.
    weights: dict[str, torch.Tensor] = state
    return weights


def _load_safetensors(path: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderError(
            f"weights: {path} is not a safetensors file: {one_line(error)}"
        ) from error


def _describe_other_type(loaded: object) -> str | None:
    """The type of an object that is no state dict, with keys that a state dict cannot have."""
    name = type(loaded).__name__
    if not isinstance(loaded, dict):
        return name
    unexpected = [
        key
        for key, value in loaded.items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    return f"{name} with {', '.join(map(repr, unexpected[:3]))}" if unexpected else None


def _vision_transformer_size(shapes: Mapping[str, torch.Size]) -> int | None:
    """The input edge in pixels that a vision transformer's weights were trained for."""
    positions = shapes.get("encoder.pos_embedding")
    patch = shapes.get("conv_proj.weight")
    if positions is None or patch is None:
        return None
    return math.isqrt(positions[1] - 1) * patch[-1]


def _from_state(name: str, path: str, state: dict[str, torch.Tensor], size: int) -> nn.Module:
    """The model with the weights of a state dict, which is emptied to save memory."""
    model = _untrained(name, size)
    shapes = {_OLD_DENSE_LAYER.sub(r"\1\2.", key): value.shape for key, value in state.items()}
    # The classifier is not used; it may be missing, or have other classes.
    classifier = f"{_classifier_of(model)}."
    for key in list(state):
        value = state.pop(key)
        if not key.startswith(classifier):
            state[_OLD_DENSE_LAYER.sub(r"\1\2.", key)] = value
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise EncoderError(
            f"weights: {path} does not fit {name}{_fitting_hint(shapes)}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    unused = ("aux", "AuxLogits", classifier)
    missing = [key for key in missing if not key.startswith(unused)]
    if missing or unexpected:
        raise EncoderError(
            f"weights: {path} does not fit {name}{_fitting_hint(shapes)}: it lacks "
            f"{_some(missing)} and has {_some(unexpected)} too many"
        )
    return model


def _fitting_hint(shapes: Mapping[str, torch.Size]) -> str:
    """The models that some weights fit, by the names and shapes of their parts."""
    size = _vision_transformer_size(shapes) or 224
    fitting = [name for name in BACKBONES if _fits(name, size, shapes)]
    return f", but {' and '.join(fitting)}" if fitting else ""


def _fits(name: str, size: int, shapes: Mapping[str, torch.Size]) -> bool:
    expected = _feature_shapes(name, size)
    return bool(expected) and all(shapes.get(key) == shape for key, shape in expected.items())


@cache
def _feature_shapes(name: str, size: int) -> Mapping[str, torch.Size]:
    """The shapes of a model's weights without its classifier; empty where they are not known."""
    try:
        with torch.device("meta"):
            model = _untrained(name, size)
    except (NotImplementedError, RuntimeError, ValueError):
        return {}  # its constructor computes with numbers, or takes no input of this size
    classifier = f"{_classifier_of(model)}."
    return {
        key: value.shape
        for key, value in model.state_dict().items()
        if not key.startswith(classifier) and not key.endswith("num_batches_tracked")
    }


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} entries" + (f" ({shown})" if keys else "")


def _untrained(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _INCEPTIONS:
        options = {"transform_input": True, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def feature_model(model: nn.Module, name: str) -> nn.Module:
    """The model without its last layer, so that it returns the input of that layer."""
    if name.startswith("squeezenet"):
        # The only family that classifies with a convolution and pools afterwards.
        model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
        return model
    parent, _, name = _classifier_of(model).rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
    return model


def _classifier_of(model: nn.Module) -> str:
    """The name of the last fully connected layer, which maps features to classes."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else "classifier"
