"""Torchvision's models with their weights, and without their classifier."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.errors import EncoderError

# These two normalize their input once more unless they are told that it came from ImageNet's
# mean and deviation, and have side outputs that are used in training only.
_INCEPTIONS = ("googlenet", "inception_v3")
# The published files of densenets still call their layers what torch no longer lets it:
# "norm.1" for "norm1".
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def load_feature_model(settings: EncoderSettings) -> tuple[nn.Module, int]:
    """The model without its classifier, and the side of its square input in pixels.

    Raises EncoderError, with the mend, when weights cannot be had or do not fit.
    """
    size = BACKBONES[settings.name].input_size(settings.weights)
    if settings.weights_file is None:
        return feature_model(_published(settings), settings.name), size
    state = _state_of(settings.weights_file)
    size = _vision_transformer_size(state) or size
    model = _from_state(settings.name, settings.weights_file, state, size)
    return feature_model(model, settings.name), size


def weights_enum(settings: EncoderSettings) -> Any:
    """Torchvision's entry of the weights, or of the default ones for a file of one's own."""
    published = torchvision.models.get_model_weights(settings.name)
    named = settings.weights if settings.weights_file is None else None
    return published[named or BACKBONES[settings.name].default_weights]


def normalization(settings: EncoderSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, in units of 0 to 1, that the weights expect."""
    transform = weights_enum(settings).transforms()
    return tuple(transform.mean), tuple(transform.std)


def _published(settings: EncoderSettings) -> nn.Module:
    weights = weights_enum(settings)
    try:
        model: nn.Module = torchvision.models.get_model(settings.name, weights=weights)
    except Exception as error:
        # No network, a full disk, or a damaged file in torch's cache, which it names.
        raise EncoderError(
            f"the weights {weights.name} of {settings.name} cannot be had from {weights.url} or "
            f"torch's cache {torch.hub.get_dir()} ({one_line(error)}); set 'weights: PATH' of the "
            f"encoder to a copy of that file, or use 'encoder: {HOG_COLOR}', which needs none"
        ) from error
    return model


def _state_of(path: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that is something else makes the unpickler raise nearly anything.
        raise EncoderError(
            f"weights: {path} is not a state dict saved with torch.save: {one_line(error)}"
        ) from error
    other = _instead_of_a_state_dict(state)
    if other is not None:
        raise EncoderError(
            f"weights: {path} is not a state dict, but a {other}; save model.state_dict()"
        )
    # As it is: a copy would lack the versions of the modules, which hang on the object.
    weights: dict[str, torch.Tensor] = state
    return weights


def _instead_of_a_state_dict(loaded: object) -> str | None:
    """The kind of an object that is no state dict, with some of the keys that tell."""
    kind = type(loaded).__name__
    if not isinstance(loaded, dict):
        return kind
    strange = [key for key, value in loaded.items() if not _is_entry(key, value)]
    return f"{kind} with {', '.join(map(repr, strange[:3]))}" if strange else None


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def one_line(error: Exception) -> str:
    """An error in one line, for messages."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:200]}"


def _vision_transformer_size(state: Mapping[str, torch.Tensor]) -> int | None:
    """The input size in pixels that a vision transformer's weights were trained for."""
    positions = state.get("encoder.pos_embedding")
    patch = state.get("conv_proj.weight")
    if positions is None or patch is None:
        return None
    return math.isqrt(positions.shape[1] - 1) * patch.shape[-1]


def _from_state(name: str, path: str, state: dict[str, torch.Tensor], size: int) -> nn.Module:
    """The model with the weights of a state dict, which is used up."""
    model = _untrained(name, size)
    # The classifier is not used, so it may be missing, or be one for other classes.
    classifier = f"{_classifier_of(model)}."
    for key in list(state):
        value = state.pop(key)
        if not key.startswith(classifier):
            state[_OLD_DENSE_LAYER.sub(r"\1\2.", key)] = value
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise EncoderError(f"weights: {path} does not fit {name}: {error}") from error
    unused = ("aux", "AuxLogits", classifier)
    lacking = [key for key in missing if not key.startswith(unused)]
    if lacking or unexpected:
        raise EncoderError(
            f"weights: {path} does not fit {name}: it lacks {_some(lacking)} and has "
            f"{_some(unexpected)} too many"
        )
    return model


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
    """The model with its last layer removed, so that it returns what that layer would read."""
    if name.startswith("squeezenet"):
        # The only family that classifies by a convolution and pools afterwards.
        model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
        return model
    parent_name, _, own_name = _classifier_of(model).rpartition(".")
    setattr(model.get_submodule(parent_name), own_name, nn.Identity())
    return model


def _classifier_of(model: nn.Module) -> str:
    """The name of the last fully connected layer, which maps features to classes."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else "classifier"
