"""imgsim_copy, encoders of timm, OpenCLIP and transformers, and SSCD's TorchScript."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.feature_model import FeatureModel
from imgsim_assets.encoders.fitted_module import fit_module
from imgsim_assets.encoders.settings import (
    IMGSIM_COPY,
    OPEN_CLIP,
    SSCD,
    STRETCH,
    TIMM,
    EncoderSettings,
    InputSettings,
)
from imgsim_assets.encoders.snapshot import (
    EXTRAS,
    library_of_snapshot,
    require_library,
    require_snapshot,
)
from imgsim_assets.encoders.torch_device import resolve_devices, torch_dtype
from imgsim_assets.encoders.torch_encoder import Prepare, TorchEncoder, center_crop
from imgsim_assets.errors import EncoderError

_MODULES = {TIMM: "timm", OPEN_CLIP: "open_clip"}
# SSCD was trained on images of 288 pixels (Pizzi et al., "A Self-Supervised Descriptor for Image
# Copy Detection", CVPR 2022).
_SSCD_SIDE = 288


class LibraryEncoder(TorchEncoder):
    """A TorchEncoder that may also encode texts.

    Args:
        model: the model and its input.
        settings: its devices, precision and `resize`.
    """

    def __init__(self, model: FeatureModel, settings: EncoderSettings) -> None:
        prepare, resized = _preprocessing(model, settings)
        devices = resolve_devices(settings)
        fitted = fit_module(model.module, devices[0], torch_dtype(settings.precision))
        super().__init__(
            fitted.module,
            prepare,
            model.dim,
            devices,
            normalize=(model.mean, model.std),
            precision=settings.precision,
            input_size=resized,
            load_unfused=(lambda: _load_model(settings).module) if fitted.is_fused else None,
        )
        self._encode_text = model.encode_text

    @property
    def has_text(self) -> bool:
        """Whether the encoder has a text tower."""
        return self._encode_text is not None

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N texts to (n, dim) float32 features in the space of the images, not normalized.

        Raises:
            EncoderError: for a model without a text tower.
        """
        if self._encode_text is None:
            raise EncoderError("this encoder has no text tower, so that it cannot search by text")
        return self._encode_text(list(texts))


def load_library_encoder(settings: EncoderSettings) -> TorchEncoder:
    """Load imgsim_copy, or an encoder of another library than torchvision.

    Raises:
        EncoderError: when the library or the weights are missing, or do not fit.
    """
    return LibraryEncoder(_load_model(settings), settings)


def _load_model(settings: EncoderSettings) -> FeatureModel:
    if settings.library == IMGSIM_COPY:
        from imgsim_assets.encoders.imgsim_copy import load_imgsim_copy

        return load_imgsim_copy()
    if settings.library == SSCD:
        return _load_torchscript(str(settings.weights_file), settings.input)
    if settings.library == OPEN_CLIP:
        require_library("open_clip", EXTRAS[OPEN_CLIP])
        from imgsim_assets.encoders.open_clip_model import load_open_clip

        _, name, tag = settings.name.split("/")
        return load_open_clip(name, tag)
    folder = require_snapshot(settings)
    library = library_of_snapshot(folder)
    require_library(_MODULES.get(library, library), EXTRAS[library])
    if library == TIMM:
        from imgsim_assets.encoders.timm_model import load_timm

        return load_timm(folder)
    if library == OPEN_CLIP:
        from imgsim_assets.encoders.open_clip_model import load_open_clip

        return load_open_clip(f"local-dir:{folder}", None)
    from imgsim_assets.encoders.transformers_model import load_transformers

    return load_transformers(folder, settings.pool)


def _load_torchscript(path: str, declared: InputSettings | None) -> FeatureModel:
    """SSCD's published TorchScript; it runs the code in the file."""
    expected = declared or InputSettings(side=_SSCD_SIDE)
    try:
        module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            features = module(torch.zeros(1, 3, expected.side, expected.side))
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise EncoderError(
            f"weights: {path} is not a TorchScript model of square images of {expected.side} "
            f"pixels ({reason}); give the published .torchscript.pt file"
        ) from error
    return FeatureModel(
        module,
        dim=features.flatten(1).shape[1],
        side=expected.side,
        mean=expected.mean,
        std=expected.std,
        interpolation="BILINEAR",
    )


def _preprocessing(model: FeatureModel, settings: EncoderSettings) -> tuple[Prepare, int]:
    """How images become the input, and the edge in pixels that they are first reduced to."""
    side, method = model.side, model.method
    if settings.resize == STRETCH:

        def stretch(image: Image.Image) -> NDArray[np.uint8]:
            return np.asarray(image.resize((side, side), method))

        return stretch, side
    edge = round(side / model.crop_fraction)
    return lambda image: center_crop(image, edge, side, method), edge
