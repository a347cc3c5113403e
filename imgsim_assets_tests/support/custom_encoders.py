"""Users' encoders for `factory`, correct and faulty ones. Torch is imported on demand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgsim_assets.encoders.probe import probe_images
from imgsim_assets_tests.support.encoders import ThumbnailEncoder, encoded_count

# Environment variable: number of images after which the failing encoders fail.
MAX_IMAGES = "IMGSIM_TEST_MAX_IMAGES"
# Environment variable: seed of the torch encoders' weights.
SEED = "IMGSIM_TEST_SEED"
# Environment variable: file to which a counted factory writes a line per call.
CALLS = "IMGSIM_TEST_FACTORY_CALLS"

NOT_A_FUNCTION = 7


class _Failing(ThumbnailEncoder):
    def __init__(self) -> None:
        self._left = int(os.environ[MAX_IMAGES]) + len(probe_images())

    def encode(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) > self._left:
            self._fail()
        self._left -= len(batch)
        return super().encode(batch)

    def _fail(self) -> None:
        raise RuntimeError("out of memory on the accelerator")


class _Exiting(_Failing):
    def _fail(self) -> None:
        os._exit(137)


class _ExtraColumn(ThumbnailEncoder):
    def encode(self, batch: np.ndarray) -> np.ndarray:
        return np.zeros((len(batch), self.dim + 1), np.float32)


class _OneRowMissing(ThumbnailEncoder):
    def encode(self, batch: np.ndarray) -> np.ndarray:
        return super().encode(batch)[:-1]


class _DifferentShapes(ThumbnailEncoder):
    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, dtype=np.float32)


class _ZeroOrNanFeatures(ThumbnailEncoder):
    """Zeros for dark images, NaN for light ones."""

    def encode(self, batch: np.ndarray) -> np.ndarray:
        rows = super().encode(batch)
        lightness = batch.reshape(len(batch), -1).mean(axis=1)
        rows[lightness < 60] = 0
        rows[lightness > 200, 5] = np.nan
        return rows


def failing() -> ThumbnailEncoder:
    return _Failing()


def exiting() -> ThumbnailEncoder:
    return _Exiting()


def extra_column() -> ThumbnailEncoder:
    return _ExtraColumn()


def one_row_missing() -> ThumbnailEncoder:
    return _OneRowMissing()


def different_shapes() -> ThumbnailEncoder:
    return _DifferentShapes()


def zero_or_nan_features() -> ThumbnailEncoder:
    return _ZeroOrNanFeatures()


def missing_package() -> ThumbnailEncoder:
    import a_package_that_nobody_has  # type: ignore[import-not-found]

    made: ThumbnailEncoder = a_package_that_nobody_has.encoder()
    return made


def returns_none() -> None:
    return None


def returns_text() -> str:
    return "abc"


def to_tensor(image: Image.Image) -> Any:
    """8 x 8 pixels as a float tensor (3, 8, 8)."""
    import torch

    pixels = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels / 255 - 0.5).permute(2, 0, 1)


def _seeded_linear() -> Any:
    import torch

    torch.manual_seed(int(os.environ.get(SEED, "0")))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))


def module() -> Any:
    from imgsim_assets.encoders.torch_encoder import CustomEncoder

    return CustomEncoder("five", _seeded_linear(), to_tensor)


def plain_tuple() -> Any:
    return ("five", _seeded_linear(), to_tensor)


def scaled(weights: str, factor: float = 1.0) -> Any:
    """A factory with a weights file and an option."""
    import torch
    from safetensors.torch import load_file

    from imgsim_assets.encoders.torch_encoder import CustomEncoder

    linear = torch.nn.Linear(192, 5)
    linear.load_state_dict(load_file(weights))
    module = torch.nn.Sequential(torch.nn.Flatten(), linear)
    return CustomEncoder("scaled", module, lambda image: to_tensor(image) * factor, 8)


def dictionary_transform() -> Any:
    return ("five", _seeded_linear(), lambda image: {"pixel_values": to_tensor(image)})


def text_transform() -> Any:
    return ("five", _seeded_linear(), lambda image: "pixels")


def object_module() -> Any:
    import torch

    class Output(torch.nn.Module):
        def forward(self, batch: Any) -> Any:
            return {"pooler_output": batch.flatten(1)}

    return ("five", Output(), to_tensor)


def with_arrays() -> Any:
    return ("five", _seeded_linear(), lambda image: to_tensor(image).numpy())


def counted_module() -> Any:
    with Path(os.environ[CALLS]).open("a") as file:
        file.write("made\n")
    return module()


def with_batch_norm() -> Any:
    import torch

    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
    return ("normalized", torch.nn.Sequential(*layers), to_tensor)


def with_dropout() -> Any:
    import torch

    return ("dropout", torch.nn.Sequential(_seeded_linear(), torch.nn.Dropout(0.5)), to_tensor)


def two_outputs() -> Any:
    import torch

    class Twice(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            flat = images.flatten(1)
            return flat, flat

    return ("twice", Twice(), to_tensor)


def bare_function() -> Any:
    return ("function", lambda images: images.flatten(1), to_tensor)


def calls(path: Path) -> int:
    """The number of calls of a counted factory."""
    return encoded_count(path)
