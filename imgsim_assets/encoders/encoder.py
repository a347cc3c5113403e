"""What every encoder offers, and finding the one that settings name."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders import hardware, hog_color
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import (
    BF16,
    GPU,
    HOG_COLOR,
    STRETCH,
    WEIGHTS_TRANSFORM,
    EncoderSettings,
)
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.decode import DECODER_VERSION
from imgsim_assets.images.jpeg import Jpeg, as_plain_jpeg

# Raise it when a torchvision encoder's preprocessing or choice of feature changes.
BACKBONE_VERSION = 1
# Raise it when only what is computed in bf16 changes, as when fewer steps of it are rounded.
BF16_VERSION = 2
# Raise it when what a GPU decodes, or how it resizes, changes.
GPU_DECODER_VERSION = 1
# Best-match threshold of ImageNet features on images of products; see docs/encoders.md.
BACKBONE_THRESHOLD = 0.845
# An image that is decoded at a reduced size keeps this many times the encoder's input, which
# leaves a cosine of more than 0.999 with the vector of the whole one.
MIN_DECODE_SCALE = 4
# How fingerprints spell `resize`; another spelling would recompute every vector.
_RESIZE_TAGS = {STRETCH: "squash", WEIGHTS_TRANSFORM: "weights"}
# Images per forward pass of an encoder that does not say what suits it.
_BATCH = 8


@runtime_checkable
class Encoder(Protocol):
    """Turns images into feature rows; what a factory's encoder has to offer.

    `prepare` may be called from several threads at once, `encode` is called from one, unless
    the encoder has a method `replicas(cores)` that returns the encoders to be used at the same
    time. With an attribute `input_size`, images may be decoded at a smaller size, as long as
    both sides keep ENOUGH times that many pixels; with a `jpeg_decoder` beside it, plain JPEGs
    are left to that.
    """

    dim: int

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """A decoded RGB image as an array; the same shape and dtype for every image."""

    def encode(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Stacked prepared images (n, ...) to features (n, dim) float32, not normalized."""


class Decoder(Protocol):
    """Decodes and prepares JPEGs where an encoder computes; called from one thread at a time."""

    def decode(self, jpegs: Sequence[Jpeg]) -> Sequence[Any | None]:
        """What `prepare` would give of each, on the device; None for one that it refuses."""

    def stack(self, prepared: Sequence[Any]) -> Any:
        """The batch of arrays that `prepare` gave, and of what `decode` did."""


def needs_loading(settings: EncoderSettings) -> bool:
    """Whether an encoder has to be made before its fingerprint is known."""
    return settings.factory is not None and settings.version is None


def fingerprint(settings: EncoderSettings, encoder: Encoder | None = None) -> str:
    """16 hex digits that stand for everything that decides an image's vector.

    Found without importing torch, except for a factory without a declared version, whose
    encoder (made here unless it is given) is told by its weights. Weights files count by
    content; `precision: auto` counts as fp32 until it is settled.
    """
    parts = [f"decoder {DECODER_VERSION}"]
    if settings.factory is not None:
        version = settings.version or _state_digest(encoder or load_encoder(settings))
        parts += ["factory", settings.factory, settings.name, version]
    elif settings.name == HOG_COLOR:
        parts += [HOG_COLOR, str(hog_color.VERSION)]
    else:
        backbone = BACKBONES[settings.name]
        if settings.weights_file is not None:
            weights = _file_digest(settings.weights_file)
        else:
            weights = settings.weights or backbone.default_weights
        size = f"{_RESIZE_TAGS[settings.resize]} {backbone.input_size(settings.weights)}"
        parts += ["torchvision", settings.name, weights, size, str(BACKBONE_VERSION)]
    if settings.precision == BF16:
        parts += [BF16, str(BF16_VERSION)]
    if settings.decode == GPU:
        parts += ["decoded on a GPU", str(GPU_DECODER_VERSION)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def recommended_threshold(settings: EncoderSettings) -> float:
    """The cosine at which two images are taken for copies when nothing is declared."""
    if settings.name == HOG_COLOR and settings.factory is None:
        return hog_color.RECOMMENDED_THRESHOLD
    return BACKBONE_THRESHOLD


def load_encoder(settings: EncoderSettings) -> Encoder:
    """Make the encoder ready to work, loading its weights.

    Raises EncoderError, with the mend, when a module, a file or weights cannot be had.
    """
    if settings.name == HOG_COLOR and settings.factory is None:
        return hog_color.HogColor()
    hardware.enable_huge_pages()
    if settings.factory is not None:
        return _from_factory(settings)
    from imgsim_assets.encoders.torch_encoder import load_backbone

    return load_backbone(settings)


def min_decode_size(encoder: Encoder) -> int | None:
    """The side in pixels that images may be decoded at, None where they are to be whole."""
    side = getattr(encoder, "input_size", None)
    return MIN_DECODE_SCALE * side if side is not None else None


def gpu_decodable_jpeg(data: bytes, encoder: Encoder) -> Jpeg | None:
    """A file that the encoder's own decoder is to decode, None for every other."""
    min_size = min_decode_size(encoder)
    if min_size is None or getattr(encoder, "jpeg_decoder", None) is None:
        return None
    return as_plain_jpeg(data, min_size)


def default_batch_size(settings: EncoderSettings, encoder: Encoder) -> int:
    """Images per forward pass: as declared, or what the encoder says suits it."""
    return settings.batch_size or int(getattr(encoder, "batch_size", _BATCH))


def _from_factory(settings: EncoderSettings) -> Encoder:
    module_name, _, function_name = str(settings.factory).partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        made = function() if callable(function) else None
    except (ImportError, AttributeError) as error:
        raise EncoderError(
            f"factory {settings.factory}: {error}; install the package, or correct the name"
        ) from error
    if not callable(function):
        raise EncoderError(
            f"factory {settings.factory} is {type(function).__name__}; name a function that "
            "returns the encoder"
        )
    if isinstance(made, Encoder):
        return made
    from imgsim_assets.encoders.torch_encoder import TorchEncoder, from_module

    encoder: TorchEncoder = from_module(made, settings)
    return encoder


def _state_digest(encoder: Encoder) -> str:
    from imgsim_assets.encoders.torch_encoder import TorchEncoder

    if not isinstance(encoder, TorchEncoder):
        raise EncoderError(
            f"the encoder {type(encoder).__name__} has no weights to tell its versions apart by; "
            "set 'version:' of the encoder, and change it when its vectors change"
        )
    return encoder.state_digest()


def _file_digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(
            f"weights: {path} cannot be read ({error.strerror}); give the path of a state dict "
            "saved with torch.save"
        ) from error
