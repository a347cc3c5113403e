from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from imgsim_assets.encoders.settings import EncoderChoice, EncoderSettings

FACTORY = "my_package.models:make"


def test_encoder_may_be_declared_by_name_only() -> None:
    choice: TypeAdapter[EncoderSettings] = TypeAdapter(EncoderChoice)

    assert choice.validate_python("resnet50") == EncoderSettings(name="resnet50")
    assert choice.validate_python({"name": "resnet50", "device": "cpu"}).device == "cpu"


def test_default_encoder_needs_no_download() -> None:
    settings = EncoderSettings()

    assert (settings.name, settings.weights, settings.device) == (
        "imgsim_copy",
        None,
        "auto",
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("resnet_50", "resnet50"), ("hog_colr", "hog_color"), ("mobilenetv3_large", "mobilenet_v3")],
)
def test_misspelled_name_is_rejected_with_suggestion(written: str, meant: str) -> None:
    with pytest.raises(
        ValidationError, match=f"unknown encoder '{written}'.*did you mean.*{meant}"
    ):
        EncoderSettings(name=written)


def test_misspelled_key_is_rejected_with_suggestion() -> None:
    with pytest.raises(ValidationError, match="unknown key 'weigths': did you mean 'weights'"):
        EncoderSettings.model_validate({"name": "resnet50", "weigths": "IMAGENET1K_V2"})


def test_unknown_weights_are_rejected_with_known_ones() -> None:
    with pytest.raises(
        ValidationError, match=r"resnet50 has no 'V2'.*IMAGENET1K_V2, IMAGENET1K_V1"
    ):
        EncoderSettings(name="resnet50", weights="V2")


@pytest.mark.parametrize(
    "weights", ["own.pth", "own.pt", "/models/own", "models/own.bin", "~/w.pth"]
)
def test_path_is_a_weights_file(weights: str) -> None:
    assert EncoderSettings(name="resnet50", weights=weights).weights_file == weights


def test_name_of_published_weights_is_not_a_file() -> None:
    assert EncoderSettings(name="resnet50", weights="IMAGENET1K_V1").weights_file is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "hog_color", "weights": "own.pth"}, "weights: hog_color takes none"),
        ({"name": "resnet50", "version": "2"}, "version: torchvision takes none, only factory"),
        ({"factory": "my_package.models"}, "is not of the form 'package.module:function'"),
        ({"factory": "my_package:make()"}, "is not of the form 'package.module:function'"),
        ({"factory": "models.py:make:x"}, "is not of the form 'package.module:function'"),
        ({"device": "gpu"}, "device: 'gpu' is not one of"),
        ({"device": "cuda:"}, "device: 'cuda:' is not one of"),
        ({"device": "cpu "}, "device: 'cpu ' is not one of"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "cpu", "num_gpus": 1}, "num_gpus: device cpu implies it"),
        ({"device": "cuda:1", "num_gpus": 0}, "num_gpus: device cuda:1 implies it"),
        ({"device": "cuda", "num_gpus": 0}, "num_gpus: 0 leaves no GPU for device cuda"),
        ({"num_gpus": -2}, "num_gpus"),
        ({"precision": "fp16"}, "precision"),
        ({"name": "hog_color", "precision": "bf16"}, "precision: hog_color computes in fp32"),
        ({"name": "hog_color", "resize": "weights_transform"}, "hog_color have no transform"),
        ({"factory": FACTORY, "resize": "weights_transform"}, "factory have no transform"),
        ({"batch_size": 4097}, "batch_size"),
        ({"decode": "cuda"}, "decode"),
        ({"name": "hog_color", "decode": "gpu"}, "decode: a GPU prepares images for torch"),
        ({"factory": FACTORY, "decode": "gpu"}, "decode: a GPU prepares images for torch"),
        (
            {"name": "resnet50", "resize": "weights_transform", "decode": "gpu"},
            "models with 'resize: stretch' only",
        ),
        (
            {"name": "resnet50", "device": "cpu", "decode": "gpu"},
            "decode: images are decoded on the GPU that",
        ),
        (
            {"name": "resnet50", "num_gpus": 0, "decode": "gpu"},
            "decode: images are decoded on the GPU that",
        ),
    ],
)
def test_invalid_combination_is_rejected_with_key_and_reason(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        EncoderSettings(**values)

    assert message in str(refusal.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_documented_devices_are_accepted(device: str) -> None:
    assert EncoderSettings(device=device).device == device


def test_factory_may_have_any_name() -> None:
    assert EncoderSettings(name="hog_color", factory=FACTORY, version="1").factory == FACTORY


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "timm/resnet50"}, "write timm/NAME.TAG"),
        ({"name": "open_clip/ViT-B-32"}, "write open_clip/NAME/TAG"),
        ({"name": "transformers/dinov2-small"}, "write transformers/OWNER/NAME"),
        ({"name": "hf-hub:dinov2"}, "write hf-hub:OWNER/NAME"),
        ({"name": "local-dir:"}, "write local-dir:FOLDER"),
        ({"name": "sscd"}, "weights: sscd needs the path of its TorchScript"),
        ({"name": "timm/a.b", "weights": "own.pth"}, "weights: timm takes none"),
        ({"name": "open_clip/A/b", "revision": "1"}, "revision: open_clip takes none"),
        ({"name": "timm/a.b", "pool": "cls"}, "pool: timm takes none, only transformers"),
        ({"name": "resnet50", "input": {"side": 300}}, "input: torchvision takes none, only onnx"),
        ({"name": "resnet50", "options": {"a": 1}}, "options: torchvision takes none"),
        ({"name": "x", "weights": "m.onnx", "precision": "bf16"}, "an ONNX file has its own"),
        ({"name": "timm/a.b", "decode": "gpu"}, "a GPU prepares images for torchvision"),
    ],
)
def test_key_of_another_library_is_rejected_with_the_fix(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderSettings.model_validate(values)


@pytest.mark.parametrize(
    ("values", "library"),
    [
        ({"name": "resnet50"}, "torchvision"),
        ({"name": "resnet50", "weights": "own.safetensors"}, "torchvision"),
        ({"name": "timm/vit_small_patch14_dinov2.lvd142m", "revision": "abc"}, "timm"),
        ({"name": "open_clip/ViT-B-32/laion2b_s34b_b79k"}, "open_clip"),
        ({"name": "transformers/facebook/dinov2-small", "pool": "cls"}, "transformers"),
        ({"name": "hf-hub:timm/ViT-B-16-SigLIP"}, "hf-hub"),
        ({"name": "local-dir:models/dinov3"}, "local-dir"),
        ({"name": "sscd", "weights": "models/sscd.torchscript.pt"}, "sscd"),
        ({"name": "x", "weights": "models/x.onnx", "input": {"side": 288}}, "onnx"),
        ({"name": "timm/a.b", "factory": FACTORY, "weights": "m.safetensors"}, "factory"),
    ],
)
def test_library_follows_from_name_and_weights(values: dict[str, object], library: str) -> None:
    assert EncoderSettings.model_validate(values).library == library


def test_relative_weights_file_is_resolved_in_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    def located(weights: str | None) -> str | None:
        return (
            EncoderSettings(name="resnet50", weights=weights)
            .with_absolute_weights(tmp_path)
            .weights
        )

    assert located("models/own.pth") == str(tmp_path / "models/own.pth")
    assert located("/models/own.pth") == "/models/own.pth"
    assert located("~/own.pth") == "/home/someone/own.pth"
    assert located("IMAGENET1K_V1") == "IMAGENET1K_V1"
    assert located(None) is None


def test_identity_ignores_device_and_batch_size() -> None:
    assert (
        EncoderSettings(name="resnet50", device="cpu", batch_size=1).identity
        == EncoderSettings(name="resnet50", device="cuda:1", batch_size=64).identity
    )


@pytest.mark.parametrize(
    "other",
    [
        {"name": "resnet101"},
        {"name": "resnet50", "weights": "IMAGENET1K_V1"},
        {"name": "resnet50", "precision": "fp32"},
        {"name": "resnet50", "resize": "weights_transform"},
        {"name": "resnet50", "decode": "gpu"},
        {"name": "resnet50", "factory": FACTORY},
        {"name": "resnet50", "factory": FACTORY, "version": "2"},
    ],
)
def test_identity_differs_for_other_encoders(other: dict[str, str]) -> None:
    assert EncoderSettings(**other).identity != EncoderSettings(name="resnet50").identity


def test_identity_is_the_same_for_named_default_weights() -> None:
    named = EncoderSettings(name="resnet50", weights="IMAGENET1K_V2")

    assert named.identity == EncoderSettings(name="resnet50").identity


def test_describe_names_encoder_and_weights() -> None:
    assert EncoderSettings(name="resnet50").describe() == "resnet50"
    assert (
        EncoderSettings(name="resnet50", weights="IMAGENET1K_V1").describe()
        == "resnet50 (IMAGENET1K_V1)"
    )


def test_describe_names_precision_and_resize() -> None:
    chosen = EncoderSettings(name="resnet50", precision="bf16", resize="weights_transform")

    assert chosen.describe() == "resnet50 (bf16, its own transform)"
    assert EncoderSettings(name="hog_color", precision="fp32").describe() == "hog_color"
    assert EncoderSettings(weights="m.onnx").describe() == "an ONNX file (m.onnx)"
    assert (
        EncoderSettings(name="resnet50", decode="gpu").describe() == "resnet50 (decoded on a GPU)"
    )


def test_describe_names_factory() -> None:
    assert FACTORY in EncoderSettings(factory=FACTORY, version="1").describe()
