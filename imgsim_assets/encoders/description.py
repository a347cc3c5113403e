"""What is known of an encoder without running it, for `imgsim encoder`."""

from __future__ import annotations

import fnmatch
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsim_assets.encoders import hog_color
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import (
    COPY_WEIGHTS,
    HOG_COLOR,
    IMGSIM_COPY,
    ONNX,
    OPEN_CLIP,
    SSCD,
    TORCHVISION,
    EncoderSettings,
)
from imgsim_assets.encoders.snapshot import (
    download_snapshot,
    find_snapshot,
    library_of_snapshot,
    read_config,
)
from imgsim_assets.errors import EncoderError


@dataclass(frozen=True)
class EncoderDescription:
    """An encoder and its weights.

    Attributes:
        name: as settings name it.
        library: the library that runs it.
        dim: width of the vectors, None where only a loaded model tells.
        side: edge of the square input in pixels, None where only a loaded model tells.
        license: of the weights, None where the files do not tell.
        threshold: the threshold that was measured for it; None for none.
        weights: path of the weights on this machine, None where they are not here.
        megabytes: size of the weights on this machine.
    """

    name: str
    library: str
    dim: int | None
    side: int | None
    license: str | None
    threshold: float | None
    weights: str | None
    megabytes: float | None


def list_encoders(pattern: str = "*") -> list[str]:
    """The names of encoders that match a pattern, of the libraries that are installed.

    Args:
        pattern: as for file names, such as "timm/*dinov2*".
    """
    names = [IMGSIM_COPY, HOG_COLOR, *BACKBONES]
    if importlib.util.find_spec("timm") is not None and pattern.startswith(("timm", "*")):
        import timm

        names += [f"timm/{name}" for name in timm.list_models(pretrained=True) if "." in name]
    if importlib.util.find_spec("open_clip") is not None and pattern.startswith(("open", "*")):
        import open_clip

        names += [f"open_clip/{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    return fnmatch.filter(names, pattern)


def pull_encoder(settings: EncoderSettings) -> EncoderDescription:
    """Download the weights of an encoder to the cache of its library.

    Raises:
        EncoderError: when they cannot be downloaded.
    """
    if settings.library in (TORCHVISION, OPEN_CLIP):
        from imgsim_assets.encoders.encoder import load_encoder

        load_encoder(settings.model_copy(update={"device": "cpu", "precision": "fp32"}))
    elif settings.library not in (HOG_COLOR, IMGSIM_COPY, ONNX, SSCD):
        download_snapshot(settings)
    return describe_encoder(settings)


def describe_encoder(settings: EncoderSettings) -> EncoderDescription:
    """Describe an encoder; makes no request.

    Raises:
        EncoderError: when a local folder does not exist.
    """
    library, threshold = settings.library, settings.recommended_threshold
    if library == HOG_COLOR:
        return EncoderDescription(
            HOG_COLOR, library, hog_color.DIM, hog_color.SIZE, "Apache-2.0", threshold, None, None
        )
    if library == IMGSIM_COPY:
        from imgsim_assets.encoders.copy_network import DIM, SIDE

        weights = Path(__file__).with_name(COPY_WEIGHTS)
        return _describe(settings, library, DIM, SIDE, "Apache-2.0", weights)
    if library == TORCHVISION:
        backbone = BACKBONES[settings.name]
        path = Path(settings.weights_file) if settings.weights_file else _torchvision_file(settings)
        return _describe(
            settings, library, backbone.dim, backbone.input_size(settings.weights), None, path
        )
    if library in (ONNX, SSCD):
        side = settings.input.side if settings.input else None
        return _describe(settings, library, None, side, None, Path(str(settings.weights_file)))
    if library == OPEN_CLIP:
        return _describe(settings, library, None, None, None, None)
    folder = find_snapshot(settings)
    if folder is None:
        return _describe(settings, library, None, None, None, None)
    library = library_of_snapshot(folder)
    config = {} if library == OPEN_CLIP else read_config(folder)
    pretrained = config.get("pretrained_cfg", config)
    size = pretrained.get("input_size") or [pretrained.get("image_size")]
    return _describe(
        settings,
        library,
        config.get("num_features", config.get("hidden_size")),
        size[-1] if isinstance(size[-1], int) else None,
        pretrained.get("license"),
        folder,
    )


def _describe(
    settings: EncoderSettings,
    library: str,
    dim: int | None,
    side: int | None,
    license_name: str | None,
    path: Path | None,
) -> EncoderDescription:
    is_here = path is not None and path.exists()
    return EncoderDescription(
        settings.name,
        library,
        dim,
        side,
        license_name,
        settings.recommended_threshold,
        str(path) if is_here else None,
        round(_size(path) / 1e6, 1) if path is not None and is_here else None,
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _torchvision_file(settings: EncoderSettings) -> Path:
    """The file of published weights in torch's cache (TORCH_HOME)."""
    import torch

    from imgsim_assets.encoders.pretrained import weights_enum

    weights: Any = weights_enum(settings)
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])


def encoder_settings(name: str, revision: str | None, weights: str | None) -> EncoderSettings:
    """The settings of an encoder by its name.

    Raises:
        EncoderError: when there is no such encoder; says which names exist.
    """
    from pydantic import ValidationError

    given = {"name": name, "revision": revision, "weights": weights}
    try:
        return EncoderSettings.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise EncoderError(message) from error
