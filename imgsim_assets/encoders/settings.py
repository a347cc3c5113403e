"""Settings of encoders, their evaluation and similarity thresholds; imports no heavy library."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from imgsim_assets.compute.device import require_device_name
from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.errors import in_home
from imgsim_assets.settings import Settings

HOG_COLOR = "hog_color"
# Its weights are part of the package; see encoders.imgsim_copy.
IMGSIM_COPY = "imgsim_copy"
COPY_WEIGHTS = "imgsim_copy.safetensors"
DEFAULT_ENCODER: Final = IMGSIM_COPY
# Fingerprints of factories contain a name; this was the default of stored vectors.
_UNNAMED_FACTORY = "mobilenet_v3_large"
# As measured; see docs/encoders.md.
HOG_COLOR_THRESHOLD = 0.9
IMGSIM_COPY_THRESHOLD = 0.8
AUTO: Final = "auto"
RECOMMENDED: Final = "recommended"
FP32, BF16 = "fp32", "bf16"
STRETCH, WEIGHTS_TRANSFORM = "stretch", "weights_transform"
CPU, GPU = "cpu", "gpu"
# Default of `min_side`; see docs/encoders.md.
MIN_SIDE: Final = 16
# Increment when the same vectors give another evaluation.
EVALUATION_VERSION = "2"
TORCHVISION, TIMM, OPEN_CLIP, TRANSFORMERS = "torchvision", "timm", "open_clip", "transformers"
HUB, LOCAL_DIR, SSCD, ONNX, FACTORY = "hf-hub", "local-dir", "sscd", "onnx", "factory"
# Files of the model whose format alone tells how to run it.
_ONNX_SUFFIX = ".onnx"
_TORCHSCRIPT_SUFFIXES = (".pt", ".torchscript", ".ts")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


_WEIGHTS_SUFFIXES = (".pth", ".safetensors", _ONNX_SUFFIX, *_TORCHSCRIPT_SUFFIXES)
# The form of the names of each library, for messages.
_NAME_FORMS = {
    TIMM: (
        re.compile(r"timm/[\w-]+\.[\w.-]+"),
        "timm/NAME.TAG, with the tag of the weights, such as timm/vit_small_patch14_dinov2.lvd142m",
    ),
    OPEN_CLIP: (
        re.compile(r"open_clip/[\w.-]+/[\w.-]+"),
        "open_clip/NAME/TAG, such as open_clip/ViT-B-32/laion2b_s34b_b79k",
    ),
    TRANSFORMERS: (
        re.compile(r"transformers/[\w.-]+/[\w.-]+"),
        "transformers/OWNER/NAME, such as transformers/facebook/dinov2-small",
    ),
    HUB: (
        re.compile(r"hf-hub:[\w.-]+/[\w.-]+"),
        "hf-hub:OWNER/NAME, such as hf-hub:timm/ViT-B-16-SigLIP",
    ),
    LOCAL_DIR: (re.compile(r"local-dir:.+"), "local-dir:FOLDER, such as local-dir:models/dinov3"),
}
# Their vectors are the same on every machine but for rounding.
FP32_ENCODERS = (HOG_COLOR, IMGSIM_COPY)
_WITHOUT_TRANSFORM = (FACTORY, HOG_COLOR, IMGSIM_COPY, ONNX, SSCD)
_MEASURED_THRESHOLDS = {HOG_COLOR: HOG_COLOR_THRESHOLD, IMGSIM_COPY: IMGSIM_COPY_THRESHOLD}
# The kinds of encoders that have a key.
_KEYS_OF_LIBRARIES: dict[str, tuple[str, ...]] = {
    "weights": (TORCHVISION, FACTORY, ONNX, SSCD),
    "revision": (TIMM, TRANSFORMERS, HUB),
    "pool": (TRANSFORMERS, HUB, LOCAL_DIR),
    "input": (ONNX, SSCD, FACTORY),
    "options": (FACTORY,),
    "version": (FACTORY,),
}


class InputSettings(Settings):
    """The input of a model whose file does not describe it."""

    side: int = Field(224, ge=8, le=4096, description="edge of the square input in pixels")
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="of each channel, in units of 0 to 1"
    )
    std: tuple[float, float, float] = Field(
        (0.229, 0.224, 0.225), description="of each channel, in units of 0 to 1"
    )


class EncoderSettings(Settings):
    """An encoder: imgsim_copy, hog_color, a library's model with its weights, or a factory."""

    name: str = Field(
        DEFAULT_ENCODER,
        description=f"{IMGSIM_COPY} (its weights are part of the package), {HOG_COLOR} (needs "
        "none), a torchvision classification model such as resnet50, timm/NAME.TAG, "
        "open_clip/NAME/TAG, transformers/OWNER/NAME, hf-hub:OWNER/NAME, "
        "local-dir:FOLDER, sscd, or any name with an ONNX file as 'weights' or with a 'factory'",
    )
    weights: str | None = Field(
        None,
        description="name of torchvision's weights (IMAGENET1K_V2), or path of a state dict "
        "(.safetensors, .pth), of an ONNX file (.onnx), or of SSCD's TorchScript (.pt)",
    )
    revision: str | None = Field(
        None, min_length=1, description="commit, tag or branch of a model of the Hugging Face Hub"
    )
    pool: Literal["cls", "mean", "pooler"] | None = Field(
        None,
        description="features of a transformers model: the first token, the mean of the tokens, or "
        "its pooler; default: the model's own image features, else its pooler",
    )
    input: InputSettings | None = Field(
        None, description="of an ONNX or TorchScript file; 'side' also of a factory's encoder"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of a factory"
    )
    threshold: float | None = Field(
        None, ge=-1, le=1, description="the recommended threshold of this encoder, as you measured"
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
    truncated_images: Literal["reject", "accept"] = Field(
        "reject", description="accept: embed what there is of truncated JPEGs and PNGs"
    )
    blank: Literal["reject", "keep"] = Field(
        "reject",
        description="reject: an image of a single color has no vector, and matches nothing",
    )
    min_side: int = Field(
        MIN_SIDE,
        ge=1,
        le=4096,
        description="minimum width and height in pixels; a smaller image has no vector",
    )
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="images per forward pass; default: by the device"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_of_factory(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("factory") is not None:
            return {"name": _UNNAMED_FACTORY, **values}
        return values

    @model_validator(mode="after")
    def _check_combination(self) -> EncoderSettings:
        require_device_name(self.device)
        if self.num_gpus != -1 and self.device not in ("auto", "cuda"):
            raise ValueError(f"num_gpus: device {self.device} implies it; remove one of them")
        if self.num_gpus == 0 and self.device == "cuda":
            raise ValueError("num_gpus: 0 leaves no GPU for device cuda; use 'device: cpu'")
        library = self.library
        if self.resize == WEIGHTS_TRANSFORM and library in _WITHOUT_TRANSFORM:
            raise ValueError(f"resize: the weights of {library} have no transform; remove it")
        if self.decode == GPU:
            self._check_gpu_decoding()
        self._check_keys_of_library(library)
        if library == FACTORY and not _FACTORY.fullmatch(str(self.factory)):
            raise ValueError(
                f"factory: {self.factory!r} is not of the form 'package.module:function'"
            )
        if library in FP32_ENCODERS and self.precision == BF16:
            raise ValueError(f"precision: {library} computes in fp32 only; remove the key")
        if library == ONNX and self.precision == BF16:
            raise ValueError("precision: an ONNX file has its own; remove the key")
        if library == SSCD and self.weights is None:
            raise ValueError("weights: sscd needs the path of its TorchScript file (.pt)")
        if library == TORCHVISION:
            self._check_torchvision()
        elif library in _NAME_FORMS and not _NAME_FORMS[library][0].fullmatch(self.name):
            raise ValueError(f"name: write {_NAME_FORMS[library][1]}, not {self.name!r}")
        return self

    def _check_keys_of_library(self, library: str) -> None:
        """Raise ValueError for a key that another kind of encoder has."""
        for key, libraries in _KEYS_OF_LIBRARIES.items():
            is_declared = getattr(self, key) not in (None, {})
            if is_declared and library not in libraries:
                fix = "remove the key" if "name" in self.model_fields_set else "add 'name'"
                others = " or ".join(libraries)
                raise ValueError(f"{key}: {library} takes none, only {others}; {fix}")

    def _check_torchvision(self) -> None:
        if self.name not in BACKBONES:
            raise ValueError(f"name: {_unknown_name(self.name)}")
        if self.weights is not None and not self.weights_file:
            published = BACKBONES[self.name].weights
            if self.weights not in published:
                raise ValueError(
                    f"weights: {self.name} has no {self.weights!r}; use {', '.join(published)}, or "
                    "the path of a state dict ending in .safetensors or .pth"
                )

    def _check_gpu_decoding(self) -> None:
        if self.library != TORCHVISION or self.resize != STRETCH:
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
    def library(self) -> str:
        """The library that runs the model, or hog_color, imgsim_copy or factory.

        It is hf-hub or local-dir where the files of the model tell which library it is.
        """
        if self.factory is not None:
            return FACTORY
        if self.name in (HOG_COLOR, SSCD):
            return self.name
        if (self.weights or "").endswith(_ONNX_SUFFIX):
            return ONNX
        if self.name == IMGSIM_COPY:
            return IMGSIM_COPY
        prefix = re.split(r"[/:]", self.name, maxsplit=1)[0]
        return prefix if prefix in _NAME_FORMS and prefix != self.name else TORCHVISION

    @property
    def model_dir(self) -> str | None:
        """The folder of a `local-dir:` model, None for any other."""
        prefix = f"{LOCAL_DIR}:"
        return self.name.removeprefix(prefix) if self.library == LOCAL_DIR else None

    @property
    def runs_code_of_a_file(self) -> bool:
        """Whether the weights are a program (TorchScript, ONNX) rather than numbers."""
        return self.library in (ONNX, SSCD)

    @property
    def may_encode_text(self) -> bool:
        """Whether the model may have a text tower; of some libraries only loading it tells."""
        return self.library in (OPEN_CLIP, TRANSFORMERS, HUB, LOCAL_DIR)

    @property
    def weights_file(self) -> str | None:
        """The path of a weights file, None for published weights."""
        weights = self.weights or ""
        is_path = weights.endswith(_WEIGHTS_SUFFIXES) or "/" in weights
        return weights if is_path else None

    def with_absolute_weights(self, project_root: Path) -> EncoderSettings:
        """The same settings, the path of a weights file or of a model's folder made absolute."""
        changes = {}
        if self.weights_file is not None:
            changes["weights"] = str(project_root / in_home(self.weights_file))
        if self.model_dir is not None:
            changes["name"] = f"{LOCAL_DIR}:{project_root / in_home(self.model_dir)}"
        return self.model_copy(update=changes) if changes else self

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
        parts += [f"revision {self.revision}"] if self.revision else []
        parts += [f"pool {self.pool}"] if self.pool else []
        parts += [self.input.model_dump_json()] if self.input else []
        parts += [json.dumps(self.options, sort_keys=True, default=str)] if self.options else []
        return tuple(parts)

    @property
    def recommended_threshold(self) -> float | None:
        """The cosine from which two images count as copies, as it was measured for the encoder.

        It belongs to a model with its weights and resize; None for one that was not measured.
        """
        if self.threshold is not None:
            return self.threshold
        return _MEASURED_THRESHOLDS.get(self.library)

    def describe(self) -> str:
        """The encoder and the settings that were declared, in words for messages."""
        if self.factory is not None:
            name = "" if self.name == _UNNAMED_FACTORY else f"{self.name}, "
            return f"{self.factory} ({name}version {self.version or 'not declared'})"
        details = [self.weights] if self.weights else []
        details += [f"revision {self.revision}"] if self.revision else []
        details += [f"pool {self.pool}"] if self.pool else []
        has_precision = self.library not in FP32_ENCODERS and self.precision != AUTO
        details += [self.precision] if has_precision else []
        details += ["its own transform"] if self.resize == WEIGHTS_TRANSFORM else []
        details += ["decoded on a GPU"] if self.decode == GPU else []
        is_unnamed = self.library == ONNX and self.name == DEFAULT_ENCODER
        name = "an ONNX file" if is_unnamed else self.name
        return f"{name} ({', '.join(details)})" if details else name


def _unknown_name(name: str) -> str:
    close = difflib.get_close_matches(name, [IMGSIM_COPY, HOG_COLOR, *BACKBONES], n=3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"unknown encoder {name!r}: {hint}use {IMGSIM_COPY}, {HOG_COLOR}, a torchvision "
        "classification model such as mobilenet_v3_large or resnet50, a model of another library "
        "such as timm/NAME.TAG or hf-hub:OWNER/NAME, or give a 'factory' of your own"
    )


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# In YAML an encoder may be just its name.
EncoderChoice = Annotated[
    EncoderSettings, BeforeValidator(_from_name, json_schema_input_type=str | EncoderSettings)
]


def _fraction(value: Any) -> Any:
    """A fraction as a number, or as text with a percent sign."""
    try:
        text = str(value).strip()
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if not isinstance(value, bool) and 0 < number < 1:
            return number
    except ValueError:
        pass
    raise ValueError(f"{value!r} is not a fraction above 0 and below 1; write 1% or 0.01")


# The fraction of items that may have a false best match with `threshold: auto`.
FalseMatches = Annotated[
    float, BeforeValidator(_fraction, json_schema_input_type=float | str), Field(gt=0, lt=1)
]
FALSE_MATCHES: Any = Field(
    0.01,
    description="with threshold auto, the largest fraction of items with a false match, such as "
    "1% or 0.01",
)


class EvaluationSettings(Settings):
    """How a catalog's encoder is evaluated, and how many false matches are acceptable."""

    sample_size: int = Field(
        100, ge=1, le=5000, description="images that are copied with every perturbation"
    )
    false_matches: FalseMatches = FALSE_MATCHES
    label: str | None = Field(None, description="column of the catalog that names a class")
    evidence: bool = Field(
        False,
        description="compare the most similar items a second time: those whose images align are no "
        "false matches, also for every automatic threshold on this catalog; the extra [evidence] "
        "installs what it needs",
    )


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


# Minimum cosine of a pair, inclusive. `auto`: measured on the items of the catalogs; `recommended`:
# the one that was measured for the encoder, `auto` for an encoder without one; None: no lower
# bound. See `similarity.threshold.resolve_threshold`.
Threshold = (
    Annotated[
        Annotated[float, Field(ge=-1, le=1)] | Literal["auto", "recommended"],
        BeforeValidator(_check_threshold),
    ]
    | None
)


def needs_measuring(threshold: Threshold, encoder: EncoderSettings) -> bool:
    """Whether a declared threshold is measured on the catalogs; see `Threshold`."""
    is_measured = threshold == RECOMMENDED and encoder.recommended_threshold is not None
    return isinstance(threshold, str) and not is_measured
