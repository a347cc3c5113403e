"""Encoders that run a torch module: torchvision's backbones, or a module of one's own."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.folding import fold_batch_norms
from imgsim_assets.encoders.fusing import can_fuse, fuse_convolutions
from imgsim_assets.encoders.jpeg_decoder import JpegDecoder
from imgsim_assets.encoders.pretrained import (
    load_feature_model,
    normalization,
    one_line,
    weights_enum,
)
from imgsim_assets.encoders.settings import BF16, GPU, STRETCH, EncoderSettings
from imgsim_assets.encoders.tf32 import without_tf32
from imgsim_assets.errors import EncoderError

# Images of 224 x 224 pixels a forward pass. On a CPU the activations of one layer are to
# stay near the cache; on a GPU they are to keep all of it busy.
CPU_BATCH = 8
GPU_BATCH = 128
_BATCH_PIXELS = 224 * 224
# The activations of the hungriest backbones (VGG) take so much for each pixel of the input. A
# card refuses what it cannot hold, and the batch is halved; where a CPU's memory runs out the
# process is killed, so that its batches must fit from the start.
_BYTES_PER_PIXEL = 1024
_SHARE_OF_MEMORY = 0.25
# An image that many times as long as wide is not resized as a whole before its middle is cut
# out: a line of 1 x 20,000 pixels would become gigabytes. Others keep the pixels they had.
_LONGEST = 16
# While one batch is computed, the next one is on its way to the card.
_BATCHES_PER_DEVICE = 2

_number_of_threads = threading.Lock()

Prepare = Callable[[Image.Image], NDArray[Any]]


class CustomEncoder(NamedTuple):
    """An encoder of one's own: what a factory returns.

    `module` maps a float batch (n, ...) to features (n, dim); it is used by several threads at
    once, so its forward pass must not change it. `transform` maps a PIL image in RGB to one
    item of that batch, as an array or tensor.
    """

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], Any]


class TorchEncoder:
    """A module in evaluation mode on one device, with its preprocessing.

    `input_size` is the size in pixels that images are reduced to, None where a transform of
    one's own decides. `plain_module` makes the module anew where this one was fitted to the machine,
    as what is traced for another has to be without that. `jpeg_decoder` prepares plain JPEGs in
    place of `prepare`, for all devices.

    Batches should always have the same size: then an image's vector does not depend, not even
    in its last bit, on what else is in the batch.
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
        plain_module: Callable[[], nn.Module] | None = None,
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
        self._plain_module = plain_module
        self._kind = torch_dtype(precision)
        require_bf16(self._kind, self.device)
        self._module = module.eval().to(self.device, self._kind)
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
        suiting = min(most, most * _BATCH_PIXELS // pixels)
        if self.device.type == "cpu":
            memory = _SHARE_OF_MEMORY * hardware.usable_memory() / hardware.usable_cores()
            suiting = min(suiting, int(memory / (_BYTES_PER_PIXEL * pixels)))
        return max(1, suiting)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """One image as the module's input, on the CPU."""
        return self._prepare(image)

    def encode(self, batch: NDArray[Any] | torch.Tensor) -> NDArray[np.float32]:
        """(n, ...) prepared images, here or on a device, to (n, dim) float32 features."""
        arithmetic = without_tf32() if may_use_tf32(self.device, self._kind) else nullcontext()
        with torch.inference_mode(), arithmetic:
            if not isinstance(batch, torch.Tensor):
                batch = torch.from_numpy(np.ascontiguousarray(batch))
            tensor = batch.to(self.device).contiguous()
            if self._normalize is not None:
                # From bytes in rows of pixels to normalized planes; still laid out by pixel,
                # which is the faster order for convolutions.
                tensor = tensor.permute(0, 3, 1, 2).float().div_(255)
                tensor = tensor.sub_(self._mean).div_(self._deviation)
            features = self._module(tensor.to(self._kind))
        rows: NDArray[np.float32] = features.flatten(1).float().cpu().numpy()
        return rows

    def plain_module(self) -> nn.Module:
        """The module of torch's common operators, in float32 on the CPU, to be traced."""
        made = (
            self._plain_module() if self._plain_module is not None else copy.deepcopy(self._module)
        )
        return made.eval().to("cpu", torch.float32).to(memory_format=torch.contiguous_format)

    def replicas(self, cores: int) -> list[TorchEncoder]:
        """This encoder once for every batch that can be computed at the same time.

        Of several devices each has a copy of the weights; on one CPU every core computes a batch
        of its own on shared weights, which wastes less than several cores on one layer.
        """
        if self.device.type == "cpu" and len(self._devices) == 1:
            return [self] * cores
        others = [self._on(device) for device in self._devices[1:]]
        return [self, *others] * _BATCHES_PER_DEVICE

    def _on(self, device: torch.device) -> TorchEncoder:
        return TorchEncoder(
            copy.deepcopy(self._module),
            self._prepare,
            self.dim,
            [device],
            normalize=self._normalize,
            precision=self.precision,
            input_size=self.input_size,
        )

    def use_one_thread(self) -> None:
        """Called first by a thread that is to encode: what it computes, it computes alone.

        Torch's setting is that of the calling thread, but also what later threads begin with,
        which is put back.
        """
        with _number_of_threads:
            default = torch.get_num_threads()
            torch.set_num_threads(1)
            other = threading.Thread(target=torch.set_num_threads, args=(default,))
            other.start()
            other.join()

    def release_memory(self) -> None:
        """Give back what a failed pass left behind on the card."""
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


def torch_dtype(precision: str) -> torch.dtype:
    """The number format that a settled precision means."""
    return torch.bfloat16 if precision == BF16 else torch.float32


def may_use_tf32(device: torch.device, kind: torch.dtype) -> bool:
    """Whether a device, left to itself, may compute with fewer digits than a dtype has."""
    return device.type == "cuda" and kind == torch.float32


def resolve_devices(settings: EncoderSettings) -> list[torch.device]:
    """The devices that `device` and `num_gpus` mean here: one CPU, or one or more GPUs.

    Raises EncoderError when a GPU is asked for that is not there.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = torch.device(settings.device) if settings.device != "auto" else None
    if asked is not None and asked.type == "cpu":
        return [asked]
    if asked is not None and ":" in settings.device:
        if asked.index >= visible:
            raise _no_gpu(f"device: there is no {settings.device} on this machine", visible)
        return [asked]
    if settings.num_gpus > visible:
        raise _no_gpu(f"num_gpus: this machine does not have {settings.num_gpus}", visible)
    wanted = visible if settings.num_gpus == -1 else settings.num_gpus
    if asked is not None and not wanted:
        raise _no_gpu("device: there is no cuda on this machine", visible)
    return [torch.device("cuda", number) for number in range(wanted)] or [torch.device("cpu")]


def _no_gpu(problem: str, visible: int) -> EncoderError:
    return EncoderError(f"{problem} ({visible} GPUs are visible); use 'auto' or 'cpu'")


def require_bf16(kind: torch.dtype, device: torch.device) -> None:
    """Raise EncoderError where a device would have to imitate bfloat16."""
    if kind != torch.bfloat16:
        return
    able = hardware.has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    if not able:
        raise EncoderError(
            f"precision: this catalog's vectors are computed in bf16, which the {device.type} "
            "of this machine cannot; run it where the first run was, or set 'precision: fp32' of "
            "the encoder in all catalogs that are compared, which computes their vectors anew"
        )


def require_gpu_for_decoding(settings: EncoderSettings, device: torch.device) -> None:
    """Raise EncoderError where JPEGs are to be decoded on a GPU and the device is none."""
    if settings.decode == GPU and device.type != "cuda":
        raise EncoderError(
            "decode: this catalog's JPEGs are decoded on a GPU, and this machine has none that "
            "torch can use; run it on one that has, or set 'decode: cpu' of the encoder in all "
            "catalogs that are compared, which computes their vectors anew"
        )


def load_backbone(settings: EncoderSettings) -> TorchEncoder:
    """A torchvision classification model without its classifier, with its weights."""
    devices = resolve_devices(settings)
    require_gpu_for_decoding(settings, devices[0])
    module, size = load_feature_model(settings)
    prepare, side = _preparation(settings, size)
    module = fold_batch_norms(module)
    plain_module = None
    if can_fuse(devices[0], torch_dtype(settings.precision)):
        module = fuse_convolutions(module)
        plain_module = partial(_load_plain_module, settings)
    return TorchEncoder(
        module,
        prepare,
        BACKBONES[settings.name].dim,
        devices,
        normalize=normalization(settings),
        precision=settings.precision,
        input_size=side,
        plain_module=plain_module,
        jpeg_decoder=JpegDecoder(devices[0], size) if settings.decode == GPU else None,
    )


def _load_plain_module(settings: EncoderSettings) -> nn.Module:
    module, _ = load_feature_model(settings)
    return fold_batch_norms(module)


def _preparation(settings: EncoderSettings, size: int) -> tuple[Prepare, int]:
    """How images become the input, and the side in pixels that they are first reduced to."""
    if settings.resize == STRETCH:
        return lambda image: stretch(image, size), size
    transform = weights_enum(settings).transforms()
    (side,) = transform.resize_size
    method = Image.Resampling[transform.interpolation.name]
    return lambda image: center_crop(image, side, transform.crop_size[0], method), side


def stretch(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The whole image in a square: (size, size, 3) uint8. A crop would lose the borders."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def center_crop(
    image: Image.Image, side: int, size: int, method: Image.Resampling
) -> NDArray[np.uint8]:
    """The middle of the image at its own proportions: (size, size, 3) uint8.

    The shorter side is brought to `side` pixels and the middle cut out, as torchvision's
    transforms of its weights do.
    """
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(image.size) > _LONGEST * min(image.size):
        own_width, own_height = image.size
        window = (
            left * own_width / width,
            top * own_height / height,
            (left + size) * own_width / width,
            (top + size) * own_height / height,
        )
        return np.asarray(image.resize((size, size), method, box=window))
    resized = image.resize((width, height), method)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


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

    devices = resolve_devices(settings)
    try:
        encoder = TorchEncoder(module, prepare, 0, devices, precision=settings.precision)
        probe = prepare(Image.new("RGB", (64, 64), (128, 128, 128)))
        encoder.dim = encoder.encode(probe[None]).shape[1]
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"factory {settings.factory}: its module does not turn what its transform gives into "
            f"one row of features an image ({one_line(error)})"
        ) from error
    return encoder
