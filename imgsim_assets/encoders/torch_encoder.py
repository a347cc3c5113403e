"""Encoders that run a torch module: torchvision's backbones, or a module of one's own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.errors import EncoderError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# These two normalise their input once more unless they are told that it came from ImageNet's
# mean and deviation, and have side outputs that are used in training only.
_INCEPTIONS = ("googlenet", "inception_v3")
# The published files of densenets still call their layers what torch no longer lets it:
# "norm.1" for "norm1".
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


class CustomEncoder(NamedTuple):
    """An encoder of one's own: what a factory returns.

    `module` maps a float batch (n, ...) to features (n, dim); `transform` maps a PIL image in
    RGB to one item of that batch, as an array or tensor.
    """

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], Any]


class TorchEncoder:
    """A module in evaluation mode on one device, with its preprocessing."""

    def __init__(
        self,
        module: nn.Module,
        prepare: Callable[[Image.Image], NDArray[Any]],
        dim: int,
        device: torch.device,
        normalise: tuple[tuple[float, ...], tuple[float, ...]] | None,
    ) -> None:
        self.dim = dim
        self.device = device
        self._prepare = prepare
        self._module = module.eval().to(device).to(memory_format=torch.channels_last)
        self._mean = self._deviation = torch.empty(0)
        self._normalises = normalise is not None
        if normalise is not None:
            self._mean, self._deviation = (
                torch.tensor(part, device=device).view(1, -1, 1, 1) for part in normalise
            )

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """One picture as the module's input, on the CPU."""
        return self._prepare(image)

    def encode(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """(n, ...) prepared pictures to (n, dim) float32 features."""
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
            if self._normalises:
                # From bytes in rows of pixels to normalised planes; still laid out by pixel,
                # which is the faster order for convolutions.
                tensor = tensor.permute(0, 3, 1, 2).float().div_(255)
                tensor = tensor.sub_(self._mean).div_(self._deviation)
            features = self._module(tensor)
        rows: NDArray[np.float32] = features.flatten(1).float().cpu().numpy()
        return rows

    def state_digest(self) -> str:
        """A hex sha256 over the module's weights."""
        digest = hashlib.sha256()
        for name, value in self._module.state_dict().items():
            digest.update(name.encode())
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(plain.numpy().tobytes())
        return digest.hexdigest()


def choose_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here; EncoderError without it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise EncoderError(
            f"device: there is no {device} on this machine ({torch.cuda.device_count()} GPUs are "
            "visible); use 'auto' or 'cpu'"
        )
    return chosen


def load_backbone(settings: EncoderSettings) -> TorchEncoder:
    """A torchvision classification model without its classifier, with its weights."""
    backbone = BACKBONES[settings.name]
    size = backbone.input_size(settings.weights)
    if settings.weights_file is not None:
        state = _state_of(settings.weights_file)
        size = _vision_transformer_size(state) or size
        model = _from_state(settings.name, settings.weights_file, state, size)
    else:
        model = _published(settings)
    return TorchEncoder(
        feature_model(model, settings.name),
        lambda image: squash(image, size),
        backbone.dim,
        choose_device(settings.device),
        _normalisation(settings),
    )


def squash(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The whole picture in a square: (size, size, 3) uint8. A crop would lose the borders."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _weights_enum(settings: EncoderSettings) -> Any:
    published = torchvision.models.get_model_weights(settings.name)
    named = settings.weights if settings.weights_file is None else None
    return published[named or BACKBONES[settings.name].default_weights]


def _normalisation(settings: EncoderSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    transform = _weights_enum(settings).transforms()
    return tuple(transform.mean), tuple(transform.std)


def _published(settings: EncoderSettings) -> nn.Module:
    weights = _weights_enum(settings)
    try:
        model: nn.Module = torchvision.models.get_model(settings.name, weights=weights)
    except Exception as error:
        # No network, a full disk, or a damaged file in torch's cache, which it names.
        raise EncoderError(
            f"the weights {weights.name} of {settings.name} cannot be had from {weights.url} or "
            f"torch's cache {torch.hub.get_dir()} ({_short(error)}); set 'weights: PATH' of the "
            f"encoder to a copy of that file, or use 'encoder: {HOG_COLOR}', which needs none"
        ) from error
    return model


def _state_of(path: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that is something else makes the unpickler raise nearly anything.
        raise EncoderError(
            f"weights: {path} is not a state dict saved with torch.save: {_short(error)}"
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


def _short(error: Exception) -> str:
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


def from_module(made: Any, settings: EncoderSettings) -> TorchEncoder:
    """An encoder from what a factory returned: (name, module, transform).

    Raises EncoderError when that is not what it returned, or when it does not yield features.
    """
    parts = made if isinstance(made, tuple) and len(made) == 3 else (None, None, None)
    _, module, transform = parts
    if not isinstance(module, nn.Module) or not callable(transform):
        raise EncoderError(
            f"factory {settings.factory} returned {type(made).__name__}; return a CustomEncoder "
            "(name, module, transform), or an object with dim, prepare and encode"
        )

    def prepare(image: Image.Image) -> NDArray[Any]:
        prepared = transform(image)
        return prepared.numpy() if isinstance(prepared, torch.Tensor) else np.asarray(prepared)

    device = choose_device(settings.device)
    try:
        encoder = TorchEncoder(module, prepare, 0, device, None)
        probe = prepare(Image.new("RGB", (64, 64), (128, 128, 128)))
        encoder.dim = encoder.encode(probe[None]).shape[1]
    except Exception as error:
        raise EncoderError(
            f"factory {settings.factory}: its module does not turn what its transform gives into "
            f"one row of features a picture ({_short(error)})"
        ) from error
    return encoder
