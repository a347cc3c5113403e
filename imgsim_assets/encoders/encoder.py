"""The interface of encoders, their fingerprints, and loading the one that settings name."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders import hardware, hog_color
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import (
    BF16,
    COPY_WEIGHTS,
    FACTORY,
    GPU,
    HOG_COLOR,
    IMGSIM_COPY,
    ONNX,
    OPEN_CLIP,
    SSCD,
    STRETCH,
    TORCHVISION,
    WEIGHTS_TRANSFORM,
    EncoderSettings,
)
from imgsim_assets.encoders.snapshot import require_library, require_snapshot, snapshot_digest
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.content import ContentRule
from imgsim_assets.images.decode import DECODER_VERSION
from imgsim_assets.images.jpeg import Jpeg, as_plain_jpeg

# Increment when the preprocessing or the feature of torchvision encoders changes.
BACKBONE_VERSION = 1
# Increment when the preprocessing or the feature of another library's models changes.
LIBRARY_VERSION = 1
# Increment when bf16 vectors alone change, as when fewer steps are rounded.
BF16_VERSION = 3
# Increment when a GPU decodes other files, or resizes differently.
GPU_DECODER_VERSION = 1
# A JPEG decoded at a reduced size keeps at least this many times the encoder's
# input size. Its vector has a cosine of more than 0.999 with that of the full image.
MIN_DECODE_SCALE = 4
# How fingerprints spell `resize`; another spelling would recompute every vector.
_RESIZE_TAGS = {STRETCH: "squash", WEIGHTS_TRANSFORM: "weights"}
# Images per forward pass of an encoder without a `batch_size`.
_BATCH = 8


@runtime_checkable
class Encoder(Protocol):
    """Turns images into rows of features; the interface of a factory's encoder.

    Several threads may call `prepare` at once; one thread calls `encode`. An encoder may also
    have:

    - `replicas(cores)`: the encoders to use at the same time, one thread each.
    - `batch_size`: images per forward pass.
    - `fixed_batch`: True where every batch is to have that size; the last image is repeated.
    - `input_size`: edge of the input in pixels. JPEGs may then be decoded at a reduced size,
      with edges of at least MIN_DECODE_SCALE times as many pixels.
    - `jpeg_decoder`: a Decoder for plain JPEGs, in place of `prepare`.
    - `device`, `use_one_thread()`, `release_memory()`: see `torch_encoder.TorchEncoder`.
    """

    dim: int

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """A decoded RGB image as an array; one shape and dtype for all images."""

    def encode(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Stacked prepared images (n, ...) to features (n, dim) float32, not normalized."""


class Decoder(Protocol):
    """Decodes and prepares JPEGs on an encoder's device; called from one thread at a time."""

    def decode(self, jpegs: Sequence[Jpeg]) -> Sequence[Any | None]:
        """Each JPEG as `prepare` would return it, on the device.

        None for one that it cannot decode, and for one that may be blank, which is decoded and
        judged like all other files.
        """

    def stack(self, prepared: Sequence[Any]) -> Any:
        """One batch of what `prepare` and `decode` returned."""


def needs_loading(settings: EncoderSettings) -> bool:
    """Whether an encoder must be loaded before its fingerprint is known."""
    return settings.factory is not None and settings.version is None


def fingerprint(settings: EncoderSettings, encoder: Encoder | None = None) -> str:
    """16 hex digits over everything that decides an image's vector.

    Does not import torch, except for a factory without a declared version, whose weights are
    hashed. Weights files count by content. `precision: auto` counts as fp32; see
    `precision.resolve_precision`.

    Args:
        settings: the encoder, its weights file located.
        encoder: the encoder if it is loaded already.

    Raises:
        EncoderError: when a weights file cannot be read, or a factory cannot be loaded.
    """
    parts = [f"decoder {DECODER_VERSION}", *_model_parts(settings, encoder)]
    if settings.precision == BF16:
        parts += [BF16, str(BF16_VERSION)]
    if settings.decode == GPU:
        parts += ["decoded on a GPU", str(GPU_DECODER_VERSION)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _model_parts(settings: EncoderSettings, encoder: Encoder | None) -> list[str]:
    """The parts of a fingerprint that say which model, weights and preprocessing it is."""
    if settings.library == FACTORY:
        version = settings.version or _state_digest(encoder or load_encoder(settings))
        return ["factory", str(settings.factory), settings.name, version, *_options(settings)]
    if settings.library == HOG_COLOR:
        return [HOG_COLOR, str(hog_color.VERSION)]
    resize = _RESIZE_TAGS[settings.resize]
    if settings.library == TORCHVISION:
        backbone = BACKBONES[settings.name]
        if settings.weights_file is not None:
            weights = _file_digest(settings.weights_file)
        else:
            weights = settings.weights or backbone.default_weights
        size = f"{resize} {backbone.input_size(settings.weights)}"
        return ["torchvision", settings.name, weights, size, str(BACKBONE_VERSION)]
    if settings.library == IMGSIM_COPY:
        weights = _file_digest(str(Path(__file__).with_name(COPY_WEIGHTS)))
        return [IMGSIM_COPY, weights, str(LIBRARY_VERSION)]
    if settings.library in (ONNX, SSCD):
        declared = settings.input.model_dump_json() if settings.input else ""
        weights = _file_digest(str(settings.weights_file))
        return [settings.library, weights, resize, declared, str(LIBRARY_VERSION)]
    if settings.library == OPEN_CLIP:
        return [settings.name, resize, str(LIBRARY_VERSION)]
    digest = snapshot_digest(settings, require_snapshot(settings))
    # The place of a local folder is not part of its model.
    name = settings.name if settings.model_dir is None else settings.library
    return [name, digest, resize, settings.pool or "", str(LIBRARY_VERSION)]


def _options(settings: EncoderSettings) -> list[str]:
    """The settings that a factory receives; none for a factory without such settings."""
    weights = [_file_digest(settings.weights_file)] if settings.weights_file else []
    weights += [f"input {settings.input.side}"] if settings.input else []
    options = [json.dumps(settings.options, sort_keys=True)] if settings.options else []
    return weights + options


def load_encoder(settings: EncoderSettings) -> Encoder:
    """Load the encoder and its weights.

    Raises:
        EncoderError: when a module, a file or weights cannot be loaded; says how to fix it.
    """
    if settings.library == HOG_COLOR:
        return hog_color.HogColor()
    hardware.enable_huge_pages()
    if settings.library == FACTORY:
        return _from_factory(settings)
    if settings.library == ONNX:
        require_library("onnxruntime", ONNX)
        from imgsim_assets.encoders.onnx_encoder import OnnxEncoder

        return OnnxEncoder(settings)
    if settings.library == TORCHVISION:
        from imgsim_assets.encoders.torch_encoder import load_backbone

        backbone: Encoder = load_backbone(settings)
        return backbone
    from imgsim_assets.encoders.library_encoder import load_library_encoder

    encoder: Encoder = load_library_encoder(settings)
    return encoder


def content_rule(settings: EncoderSettings) -> ContentRule:
    """Which images an encoder with these settings does not embed."""
    return ContentRule(keeps_blank=settings.blank == "keep", min_side=settings.min_side)


def min_decode_size(encoder: Encoder) -> int | None:
    """The minimum edge in pixels of a decoded image; None where images are decoded in full."""
    size = getattr(encoder, "input_size", None)
    return MIN_DECODE_SCALE * size if size is not None else None


def gpu_decodable_jpeg(data: bytes, encoder: Encoder) -> Jpeg | None:
    """The JPEG, if the encoder has a decoder of its own and may decode this file."""
    min_size = min_decode_size(encoder)
    if min_size is None or getattr(encoder, "jpeg_decoder", None) is None:
        return None
    return as_plain_jpeg(data, min_size)


def default_batch_size(settings: EncoderSettings, encoder: Encoder) -> int:
    """Images per forward pass: as declared, or as the encoder suggests."""
    return settings.batch_size or int(getattr(encoder, "batch_size", _BATCH))


def _from_factory(settings: EncoderSettings) -> Encoder:
    module_name, _, function_name = str(settings.factory).partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise EncoderError(
            f"factory {settings.factory}: {error}; install the package, or correct the name"
        ) from error
    if not callable(function):
        raise EncoderError(
            f"factory {settings.factory} is {type(function).__name__}; name a function that "
            "returns the encoder"
        )
    returned = _call_factory(function, settings)
    if isinstance(returned, Encoder):
        return returned
    from imgsim_assets.encoders.torch_encoder import TorchEncoder, from_module

    encoder: TorchEncoder = from_module(returned, settings)
    return encoder


def _call_factory(function: Callable[..., Any], settings: EncoderSettings) -> Any:
    """Call a factory with its options, and with the path of its weights if they are declared."""
    weights = {"weights": settings.weights_file} if settings.weights_file else {}
    arguments = {**settings.options, **weights}
    try:
        inspect.signature(function).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise EncoderError(
            f"factory {settings.factory} cannot be called with {', '.join(arguments) or 'nothing'} "
            f"({error}); its parameters are the keys of 'options', and 'weights' if it is declared"
        ) from error
    try:
        return function(**arguments)
    except (ImportError, AttributeError) as error:
        raise EncoderError(
            f"factory {settings.factory}: {error}; install the package, or correct the name"
        ) from error


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
