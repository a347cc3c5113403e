"""Encoders that run a torch module: torchvision's backbones, or a user's module."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.fitted_module import fit_module
from imgsim_assets.encoders.jpeg_decoder import JpegDecoder
from imgsim_assets.encoders.norm_folding import fold_batch_norms
from imgsim_assets.encoders.pretrained import (
    load_feature_model,
    normalization,
    weights_enum,
)
from imgsim_assets.encoders.settings import GPU, STRETCH, EncoderSettings
from imgsim_assets.encoders.torch_device import (
    may_use_tf32,
    require_bf16,
    require_gpu_for_decoding,
    resolve_devices,
    torch_dtype,
    without_tf32,
)
from imgsim_assets.errors import EncoderError, one_line

# Images of 224 x 224 pixels per forward pass. On a CPU the activations of a layer should stay
# near the cache; on a GPU they should keep all of it busy.
CPU_BATCH = 8
GPU_BATCH = 128
_BATCH_PIXELS = 224 * 224
# Activations of the largest backbones (VGG) per pixel of the input. A GPU refuses what it cannot
# hold, and the batch is halved. A process that exhausts a CPU's memory is killed, so that its
# batches must fit from the start.
_BYTES_PER_PIXEL = 1024
_MAX_MEMORY_FRACTION = 0.25
# A thinner image is cropped before it is resized: 1 x 20,000 pixels would become gigabytes.
_MAX_ASPECT_RATIO = 16
# While a GPU computes one batch, the next one is on its way to it.
_BATCHES_PER_DEVICE = 2

_thread_count_lock = threading.Lock()

Prepare = Callable[[Image.Image], NDArray[Any]]


class CustomEncoder(NamedTuple):
    """A user's encoder: what a factory returns.

    Attributes:
        name: for messages.
        module: maps a float batch (n, ...) to features (n, dim). Several threads use it at
            once, so that its forward pass must not change it.
        transform: maps a PIL image in RGB to one item of that batch, an array or tensor.
        input_side: edge in pixels that the transform reduces images to, which decides the size of
            a batch; default: `input: {side}` of the settings.
    """

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], Any]
    input_side: int | None = None


class TorchEncoder:
    """A module in evaluation mode on one or more devices, with its preprocessing.

    Batches should always have the same size: then an image's vector does not depend, not even
    in its last bit, on the rest of the batch.

    Args:
        module: maps a batch (n, 3, h, w), or whatever `prepare` gives, to features (n, dim).
        prepare: maps an RGB image to one item of a batch.
        dim: width of the features.
        devices: the devices to compute on, the first one for this object.
        normalize: mean and standard deviation of each channel in units of 0 to 1; then items
            are (h, w, 3) uint8.
        precision: fp32 or bf16.
        input_size: edge in pixels that `prepare` reduces images to, None where unknown.
        load_unfused: loads the module with torch's common operators again, where `module` was
            fitted to this machine.
        jpeg_decoder: prepares plain JPEGs in place of `prepare`, for all devices.

    Raises:
        EncoderError: when the device has no bf16 and `precision` asks for it.
    """

    fixed_batch = True

    def __init__(
        self,
        module: nn.Module,
        prepare: Prepare,
        dim: int,
        devices: Sequence[torch.device],
        *,
        normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        precision: str = "fp32",
        input_size: int | None = None,
        load_unfused: Callable[[], nn.Module] | None = None,
        jpeg_decoder: JpegDecoder | None = None,
    ) -> None:
        self.dim = dim
        self.device = devices[0]
        self.precision = precision
        self.input_size = input_size
        self.jpeg_decoder = jpeg_decoder
        self._devices = devices
        self._prepare = prepare
        self._normalize = normalize
        self._load_unfused = load_unfused
        self._dtype = torch_dtype(precision)
        require_bf16(self._dtype, self.device)
        self._module = module.eval().to(self.device, self._dtype)
        self._module.to(memory_format=torch.channels_last)
        self._mean = self._deviation = torch.empty(0)
        if normalize is not None:
            self._mean, self._deviation = (
                torch.tensor(part, device=self.device).view(1, -1, 1, 1) for part in normalize
            )
        if self.device.type == "cpu":
            hardware.keep_freed_memory()

    @property
    def batch_size(self) -> int:
        """Images per forward pass that suit the device, its memory and the input's size."""
        pixels = (self.input_size or 224) ** 2
        most = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        size = min(most, most * _BATCH_PIXELS // pixels)
        if self.device.type == "cpu":
            memory = _MAX_MEMORY_FRACTION * hardware.usable_memory() / hardware.usable_cores()
            size = min(size, int(memory / (_BYTES_PER_PIXEL * pixels)))
        return max(1, size)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """One RGB image as an item of a batch, on the CPU."""
        return self._prepare(image)

    def encode(self, batch: NDArray[Any] | torch.Tensor) -> NDArray[np.float32]:
        """(n, ...) prepared images, in memory or on a device, to (n, dim) float32 features."""
        precision = without_tf32() if may_use_tf32(self.device, self._dtype) else nullcontext()
        with torch.inference_mode(), precision:
            if not isinstance(batch, torch.Tensor):
                batch = torch.from_numpy(np.ascontiguousarray(batch))
            tensor = batch.to(self.device).contiguous()
            if self._normalize is not None:
                # Channels last in memory: the faster order for convolutions.
                tensor = tensor.permute(0, 3, 1, 2).float().div_(255)
                tensor = tensor.sub_(self._mean).div_(self._deviation)
            features = self._module(tensor.to(self._dtype))
        rows: NDArray[np.float32] = features.flatten(1).float().cpu().numpy()
        return rows

    def unfused_module(self) -> nn.Module:
        """The module of torch's common operators, float32 on the CPU, to be traced or exported."""
        module = self._load_unfused() if self._load_unfused else copy.deepcopy(self._module)
        return module.eval().to("cpu", torch.float32).to(memory_format=torch.contiguous_format)

    def replicas(self, cores: int) -> list[TorchEncoder]:
        """This encoder once for every batch that can be computed at the same time.

        Each GPU has a copy of the weights. On a CPU every core computes a batch of its own on
        shared weights, which is faster than several cores on one layer.
        """
        if self.device.type == "cpu" and len(self._devices) == 1:
            return [self] * cores
        copies = [
            TorchEncoder(
                copy.deepcopy(self._module),
                self._prepare,
                self.dim,
                [device],
                normalize=self._normalize,
                precision=self.precision,
                input_size=self.input_size,
            )
            for device in self._devices[1:]
        ]
        return [self, *copies] * _BATCHES_PER_DEVICE

    def use_one_thread(self) -> None:
        """Let the calling thread compute on one core; call it before the thread encodes.

        Torch also gives the setting to threads that start later; that default is restored.
        """
        with _thread_count_lock:
            default = torch.get_num_threads()
            torch.set_num_threads(1)
            restoring = threading.Thread(target=torch.set_num_threads, args=(default,))
            restoring.start()
            restoring.join()

    def release_memory(self) -> None:
        """Return to a GPU the memory that a failed forward pass allocated."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_digest(self) -> str:
        """A hex sha256 over the module's weights."""
        digest = hashlib.sha256()
        for name, value in self._module.state_dict().items():
            digest.update(name.encode())
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(plain.numpy().tobytes())
        return digest.hexdigest()


def load_backbone(settings: EncoderSettings) -> TorchEncoder:
    """A torchvision classification model without its classifier, with its weights.

    Raises:
        EncoderError: when weights cannot be loaded, or this machine lacks a device.
    """
    devices = resolve_devices(settings)
    require_gpu_for_decoding(settings, devices[0])
    module, size = load_feature_model(settings)
    prepare, resized = _preprocessing(settings, size)
    fitted = fit_module(module, devices[0], torch_dtype(settings.precision))
    return TorchEncoder(
        fitted.module,
        prepare,
        BACKBONES[settings.name].dim,
        devices,
        normalize=normalization(settings),
        precision=settings.precision,
        input_size=resized,
        load_unfused=(lambda: fold_batch_norms(load_feature_model(settings)[0]))
        if fitted.is_fused
        else None,
        jpeg_decoder=JpegDecoder(devices[0], size) if settings.decode == GPU else None,
    )


def _preprocessing(settings: EncoderSettings, size: int) -> tuple[Prepare, int]:
    """How images become the input, and the edge in pixels that they are first reduced to."""
    if settings.resize == STRETCH:
        return lambda image: stretch(image, size), size
    transform = weights_enum(settings).transforms()
    (edge,) = transform.resize_size
    method = Image.Resampling[transform.interpolation.name]
    return lambda image: center_crop(image, edge, transform.crop_size[0], method), edge


def stretch(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The whole image resized to a square, (size, size, 3) uint8. A crop would lose borders."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def center_crop(
    image: Image.Image, edge: int, size: int, method: Image.Resampling
) -> NDArray[np.uint8]:
    """The middle of an image in its own proportions, as torchvision's transforms crop it.

    Args:
        image: an RGB image.
        edge: length in pixels that the shorter edge is resized to.
        size: edge of the square in pixels that is cut from the middle.
        method: Pillow's resampling method.

    Returns:
        (size, size, 3) uint8.
    """
    scale = edge / min(image.size)
    width, height = (max(edge, int(length * scale)) for length in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        window = (
            left * image.width / width,
            top * image.height / height,
            (left + size) * image.width / width,
            (top + size) * image.height / height,
        )
        return np.asarray(image.resize((size, size), method, box=window))
    resized = image.resize((width, height), method)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def from_module(returned: Any, settings: EncoderSettings) -> TorchEncoder:
    """An encoder from what a factory returned, a CustomEncoder or such a tuple.

    Raises:
        EncoderError: when it is neither, or when its module does not give features.
    """
    is_encoder = isinstance(returned, tuple) and len(returned) in (3, 4)
    _, module, transform, *side = returned if is_encoder else (None, None, None)
    if not isinstance(module, nn.Module) or not callable(transform):
        raise EncoderError(
            f"factory {settings.factory} returned {type(returned).__name__}; return a "
            "CustomEncoder (name, module, transform), or an object with dim, prepare and encode"
        )

    def prepare(image: Image.Image) -> NDArray[Any]:
        prepared = transform(image)
        return prepared.numpy() if isinstance(prepared, torch.Tensor) else np.asarray(prepared)

    declared = settings.input.side if settings.input else None
    encoder = TorchEncoder(
        module,
        prepare,
        0,
        resolve_devices(settings),
        precision=settings.precision,
        input_size=(side[0] if side else None) or declared,
    )
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    try:
        _check_transform(transform(image), settings)
        _check_module(module, prepare(image), encoder, settings)
        encoder.dim = encoder.encode(prepare(image)[None]).shape[1]
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"factory {settings.factory}: its module does not turn what its transform gives into "
            f"one row of features an image ({one_line(error)})"
        ) from error
    return encoder


def _check_transform(prepared: Any, settings: EncoderSettings) -> None:
    """Raise EncoderError unless a factory's transform gives an array of numbers."""
    if isinstance(prepared, Mapping):
        raise EncoderError(
            f"factory {settings.factory}: transform returns {type(prepared).__name__} with the "
            f"keys {', '.join(map(str, prepared))}; return one array, such as "
            "processor(image, return_tensors='pt')['pixel_values'][0]"
        )
    if not isinstance(prepared, torch.Tensor) and np.asarray(prepared).dtype.kind not in "biuf":
        raise EncoderError(
            f"factory {settings.factory}: transform returns {type(prepared).__name__}, not an "
            "array of numbers; return a NumPy array or a tensor (channels, height, width)"
        )


def _check_module(
    module: nn.Module, prepared: NDArray[Any], encoder: TorchEncoder, settings: EncoderSettings
) -> None:
    """Raise EncoderError unless a factory's module returns a tensor."""
    batch = torch.from_numpy(np.ascontiguousarray(prepared)[None]).to(encoder.device)
    with torch.inference_mode():
        features = module(batch.to(torch_dtype(encoder.precision)))
    if not isinstance(features, torch.Tensor):
        raise EncoderError(
            f"factory {settings.factory}: module returns {type(features).__name__}, not a tensor "
            "(n, dim); wrap it in a module that selects the features, such as model.visual or "
            "output.pooler_output"
        )
