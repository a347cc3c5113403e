"""Settings of encoders, their evaluation and similarity thresholds; imports no heavy library."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.settings import Settings

HOG_COLOR = "hog_color"
AUTO: Final = "auto"
RECOMMENDED: Final = "recommended"
FP32, BF16 = "fp32", "bf16"
STRETCH, WEIGHTS_TRANSFORM = "stretch", "weights_transform"
CPU, GPU = "cpu", "gpu"
# Increment when the same vectors give another evaluation.
EVALUATION_VERSION = "1"
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class EncoderSettings(Settings):
    """An encoder: hog_color, a torchvision model with its weights, or a user's factory."""

    name: str = Field(
        "mobilenet_v3_large",
        description=f"{HOG_COLOR} (needs no weights), a torchvision classification model such as "
        "resnet50, or, with 'factory', any name for it",
    )
    weights: str | None = Field(
        None,
        description="name of torchvision's weights (IMAGENET1K_V2) or path of a state dict (.pth)",
    )
    factory: str | None = Field(
        None, description="your encoder, as 'package.module:function' returning it"
    )
    version: str | None = Field(
        None, description="of a factory's encoder: change it to recompute the vectors"
    )
    device: str = Field("auto", description="auto (a GPU if there is one), cpu, cuda or cuda:N")
    num_gpus: int = Field(-1, ge=-1, description="GPUs to use with device auto or cuda; -1: all")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: the faster one on the machine of the catalog's first run"
    )
    resize: Literal["stretch", "weights_transform"] = Field(
        "stretch",
        description="stretch: the whole image to a square; weights_transform: as in training",
    )
    decode: Literal["cpu", "gpu"] = Field(
        "cpu", description="gpu: plain JPEGs are decoded and resized on the GPU"
    )
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="images per forward pass; default: by the device"
    )

    @model_validator(mode="after")
    def _check_combination(self) -> EncoderSettings:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"device: {self.device!r} is not one of auto, cpu, cuda, cuda:N")
        if self.num_gpus != -1 and self.device not in ("auto", "cuda"):
            raise ValueError(f"num_gpus: device {self.device} implies it; remove one of them")
        if self.num_gpus == 0 and self.device == "cuda":
            raise ValueError("num_gpus: 0 leaves no GPU for device cuda; use 'device: cpu'")
        if self.resize == WEIGHTS_TRANSFORM and (self.factory or self.name == HOG_COLOR):
            raise ValueError("resize: only torchvision's weights have a transform; remove it")
        if self.decode == GPU:
            self._check_gpu_decoding()
        if self.factory is not None:
            if not _FACTORY.fullmatch(self.factory):
                raise ValueError(
                    f"factory: {self.factory!r} is not of the form 'package.module:function'"
                )
            if self.weights is not None:
                raise ValueError("weights: a factory loads its own; remove the key")
            return self
        if self.version is not None:
            raise ValueError("version: only an encoder with a 'factory' has one; remove it")
        if self.name == HOG_COLOR:
            if self.weights is not None:
                raise ValueError(f"weights: {HOG_COLOR} has none; remove the key")
            if self.precision == BF16:
                raise ValueError(f"precision: {HOG_COLOR} computes in fp32 only; remove the key")
            return self
        if self.name not in BACKBONES:
            raise ValueError(f"name: {_unknown_name(self.name)}")
        if self.weights is not None and not self.weights_file:
            published = BACKBONES[self.name].weights
            if self.weights not in published:
                raise ValueError(
                    f"weights: {self.name} has no {self.weights!r}; use {', '.join(published)}, or "
                    "the path of a state dict ending in .pth"
                )
        return self

    def _check_gpu_decoding(self) -> None:
        if self.factory or self.name == HOG_COLOR or self.resize != STRETCH:
            raise ValueError(
                "decode: a GPU prepares images for torchvision's models with 'resize: "
                "stretch' only; remove the key"
            )
        if self.device == CPU or self.num_gpus == 0:
            raise ValueError(
                "decode: images are decoded on the GPU that computes, and 'device' or "
                "'num_gpus' names none; remove one of the keys"
            )

    @property
    def weights_file(self) -> str | None:
        """The path of a weights file, None for published weights."""
        weights = self.weights or ""
        return weights if weights.endswith((".pth", ".pt")) or "/" in weights else None

    def with_absolute_weights(self, project_root: Path) -> EncoderSettings:
        """The same settings, the path of a weights file made absolute."""
        if self.weights_file is None:
            return self
        path = project_root / Path(self.weights_file).expanduser()
        return self.model_copy(update={"weights": str(path)})

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The settings that decide whether vectors are comparable (not the device or batch).

        Catalogs with precision auto may still differ, where their first runs were on different
        machines at the same time. `recorded.require_same_encoder` compares fingerprints.
        """
        weights = self.weights
        if weights is None and self.factory is None and self.name in BACKBONES:
            weights = BACKBONES[self.name].default_weights
        parts = [self.name, weights, self.factory, self.version]
        # Defaults are left out, so that a new setting does not make existing results stale.
        parts += [self.precision] if self.precision != AUTO else []
        parts += [self.resize] if self.resize != STRETCH else []
        parts += [self.decode] if self.decode != CPU else []
        return tuple(parts)

    def describe(self) -> str:
        """The encoder and the settings that were declared, in words for messages."""
        if self.factory is not None:
            return f"{self.factory} ({self.name}, version {self.version or 'not declared'})"
        details = [self.weights] if self.weights else []
        has_precision = self.name != HOG_COLOR and self.precision != AUTO
        details += [self.precision] if has_precision else []
        details += ["its own transform"] if self.resize == WEIGHTS_TRANSFORM else []
        details += ["decoded on a GPU"] if self.decode == GPU else []
        return f"{self.name} ({', '.join(details)})" if details else self.name


def _unknown_name(name: str) -> str:
    close = difflib.get_close_matches(name, [HOG_COLOR, *BACKBONES], n=3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"unknown encoder {name!r}: {hint}use {HOG_COLOR}, a torchvision classification model "
        "such as mobilenet_v3_large or resnet50, or give a 'factory' of your own"
    )


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# In YAML an encoder may be just its name.
EncoderChoice = Annotated[
    EncoderSettings, BeforeValidator(_from_name, json_schema_input_type=str | EncoderSettings)
]


class EvaluationSettings(Settings):
    """How a catalog's encoder is evaluated, and how many false matches are acceptable."""

    sample_size: int = Field(
        100, ge=1, le=5000, description="images that are copied with every perturbation"
    )
    false_positives_per_million: float = Field(
        100.0, gt=0, description="most false matches among a million pairs of different images"
    )
    label: str | None = Field(None, description="column of the catalog that names a class")


def _check_threshold(value: Any) -> Any:
    """Report one problem; pydantic itself reports one for each member of the union."""
    try:
        if value in (AUTO, RECOMMENDED):
            return value
        if not isinstance(value, bool) and -1 <= float(value) <= 1:
            return value
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{value!r} is not a cosine; give -1 to 1, {AUTO} or {RECOMMENDED}")


# Minimum cosine of a pair, inclusive. `auto`: measured by the encoder_evaluation of the catalogs;
# `recommended`: the encoder's own; None: no lower bound. See `threshold.resolve_threshold`.
Threshold = (
    Annotated[
        Annotated[float, Field(ge=-1, le=1)] | Literal["auto", "recommended"],
        BeforeValidator(_check_threshold),
    ]
    | None
)
