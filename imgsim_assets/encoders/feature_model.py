"""What every library's model becomes: a module of normalized pixels, and its preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

Channels = tuple[float, float, float]
EncodeText = Callable[[list[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class FeatureModel:
    """A model without its classifier, in evaluation mode, and the input that it expects.

    Attributes:
        module: maps a batch (n, 3, side, side) of normalized pixels to features (n, dim).
        dim: width of the features.
        side: edge of the square input in pixels.
        mean: of each channel, in units of 0 to 1.
        std: of each channel, in units of 0 to 1.
        interpolation: name of Pillow's resampling method.
        crop_fraction: share of the shorter edge that the model's own transform keeps.
        encode_text: texts to features (n, dim) in the space of the images; None for a model
            without a text tower.
    """

    module: nn.Module
    dim: int
    side: int
    mean: Channels
    std: Channels
    interpolation: str = "BICUBIC"
    crop_fraction: float = 1.0
    encode_text: EncodeText | None = None

    @property
    def method(self) -> Image.Resampling:
        """Pillow's resampling method."""
        return Image.Resampling[self.interpolation]


class Features(nn.Module):
    """A model's function of images as a module, so that it moves to devices and dtypes.

    Args:
        model: holds the weights.
        features: maps the model and a batch (n, 3, h, w) to features (n, dim).
    """

    def __init__(self, model: nn.Module, features: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model = model
        self._features = features

    def forward(self, pixels: Any) -> Any:
        """Normalized pixels to features."""
        return self._features(self.model, pixels)
