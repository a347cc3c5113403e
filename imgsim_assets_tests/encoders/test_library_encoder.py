"""Encoders of timm, OpenCLIP, transformers, ONNX and TorchScript, on tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imgsim_assets.encoders.encoder import fingerprint, load_encoder
from imgsim_assets.encoders.library_encoder import LibraryEncoder
from imgsim_assets.encoders.probe import probe_images
from imgsim_assets.encoders.settings import EncoderSettings, InputSettings
from imgsim_assets.encoders.torch_encoder import TorchEncoder
from imgsim_assets.errors import EncoderError
from imgsim_assets_tests.support import custom_encoders, tiny_models

Save = Callable[[Path], Path]


def _local(folder: Path, **keys: object) -> EncoderSettings:
    return EncoderSettings.model_validate(
        {"name": f"local-dir:{folder}", "device": "cpu", "precision": "fp32", **keys}
    )


def _features(settings: EncoderSettings) -> np.ndarray:
    encoder = load_encoder(settings)
    return np.concatenate([encoder.encode(encoder.prepare(i)[None]) for i in probe_images()])


def _timm_vit(folder: Path) -> Path:
    return tiny_models.save_timm(folder, "test_vit")


def _timm_cnn(folder: Path) -> Path:
    return tiny_models.save_timm(folder, "test_efficientnet")


@pytest.mark.parametrize(
    ("save", "side", "dim", "keys"),
    [
        (_timm_vit, 160, 64, {}),
        (_timm_cnn, 160, 256, {}),
        (tiny_models.save_open_clip, 32, 16, {}),
        (tiny_models.save_dinov2, 28, 32, {}),
        (tiny_models.save_dinov2, 28, 32, {"pool": "mean"}),
        (tiny_models.save_swin, 32, 16, {"pool": "mean"}),
        (tiny_models.save_siglip, 32, 32, {}),
        (tiny_models.save_vit_without_pooler, 32, 32, {"pool": "cls"}),
    ],
    ids=["timm vit", "timm cnn", "open_clip", "dinov2", "dinov2 mean", "swin", "siglip", "vit cls"],
)
def test_model_of_folder_encodes_images_of_every_shape(
    save: Save, side: int, dim: int, keys: dict[str, object], tmp_path: Path
) -> None:
    settings = _local(save(tmp_path / "model"), **keys)
    encoder = load_encoder(settings)
    prepared = [encoder.prepare(image) for image in probe_images()]

    features = encoder.encode(np.stack(prepared))

    assert {item.shape for item in prepared} == {(side, side, 3)}
    assert features.shape == (3, dim)
    assert features.dtype == np.float32
    assert encoder.dim == dim
    assert np.isfinite(features).all()
    assert np.array_equal(features, _features(settings)) or np.allclose(
        features, _features(settings), atol=1e-4
    )


def test_timm_features_are_those_of_timms_own_pipeline(tmp_path: Path) -> None:
    import timm

    folder = _timm_vit(tmp_path / "model")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    image = probe_images()[0].resize((160, 160), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = model((pixels - 0.5) / 0.5).numpy()

    encoder = load_encoder(_local(folder))

    assert np.allclose(encoder.encode(encoder.prepare(image)[None]), expected, atol=1e-4)


def test_transformers_features_are_those_of_its_image_processor(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny_models.save_siglip(tmp_path / "model")
    model = AutoModel.from_pretrained(folder).eval()
    image = probe_images()[1].resize((32, 32), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=(pixels - 0.5) / 0.25).pooler_output

    encoder = load_encoder(_local(folder))

    assert np.allclose(encoder.encode(encoder.prepare(image)[None]), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("save", [tiny_models.save_open_clip, tiny_models.save_siglip])
def test_text_tower_gives_unit_of_the_same_width_and_tells_texts_apart(
    save: Save, tmp_path: Path
) -> None:
    encoder = load_encoder(_local(save(tmp_path / "model")))
    assert isinstance(encoder, LibraryEncoder)

    texts = encoder.encode_text(["red shoe", "blue hat"])

    assert encoder.has_text
    assert texts.shape == (2, encoder.dim)
    assert not np.allclose(texts[0], texts[1])
    assert np.allclose(texts[:1], encoder.encode_text(["red shoe"]), atol=1e-5)


def test_model_without_text_tower_says_so(tmp_path: Path) -> None:
    encoder = load_encoder(_local(_timm_vit(tmp_path / "model")))
    assert isinstance(encoder, LibraryEncoder)

    assert not encoder.has_text
    with pytest.raises(EncoderError, match="no text tower"):
        encoder.encode_text(["red shoe"])


def test_untrained_pooler_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_vit_without_pooler(tmp_path / "model")

    with pytest.raises(EncoderError, match=r"pooler of .* has no weights; set 'pool: cls'"):
        load_encoder(_local(folder))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_dinov2(tmp_path / "model")
    tiny_models.save_swin(tmp_path / "other")
    (tmp_path / "other/model.safetensors").rename(folder / "model.safetensors")

    with pytest.raises(EncoderError, match=r"do not fit its config.json: they lack"):
        load_encoder(_local(folder))


def test_naflex_model_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_models.save_siglip(tmp_path / "model")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["model_input_names"] = ["pixel_values", "pixel_attention_mask"]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))

    with pytest.raises(EncoderError, match="NaFlex"):
        load_encoder(_local(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "not a configuration of timm"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
        ('{"architecture": "no_such_model"}', "timm cannot load"),
        ('{"model_type": "no_such_type"}', "transformers cannot load"),
    ],
)
def test_folder_without_a_model_is_one_message(
    config: str | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    if config is not None:
        (folder / "config.json").write_text(config)

    with pytest.raises(EncoderError, match=message):
        load_encoder(_local(folder))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_dinov2(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(EncoderError, match="no safetensors file"):
        load_encoder(_local(folder))


def test_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="there is no folder"):
        fingerprint(_local(tmp_path / "missing"))


def test_fingerprint_follows_content_pool_and_resize_but_not_the_place_of_a_folder(
    tmp_path: Path,
) -> None:
    first = _local(tiny_models.save_dinov2(tmp_path / "first"))
    moved = _local(tiny_models.save_dinov2(tmp_path / "moved"))
    other = _local(tiny_models.save_dinov2(tmp_path / "other", seed=1))

    assert fingerprint(first) == fingerprint(moved)
    variants = [
        first,
        other,
        _local(tmp_path / "first", pool="mean"),
        _local(tmp_path / "first", resize="weights_transform"),
        _local(tmp_path / "first", precision="bf16"),
    ]
    assert len({fingerprint(settings) for settings in variants}) == len(variants)


def test_weights_transform_crops_as_the_processor_does(tmp_path: Path) -> None:
    folder = tiny_models.save_dinov2(tmp_path / "model")
    processor = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    image = probe_images()[1]
    encoder = load_encoder(_local(folder, resize="weights_transform"))

    prepared = encoder.prepare(image)

    shortest = 32 / min(image.size)
    size = (int(image.width * shortest), int(image.height * shortest))
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - 28) / 2), round((size[0] - 28) / 2)
    assert np.array_equal(prepared, resized[top : top + 28, left : left + 28])


def test_onnx_file_encodes_as_torch_does(tmp_path: Path) -> None:
    path = tiny_models.save_onnx(tmp_path / "x.onnx", side=24, dim=8)
    declared = InputSettings(side=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    settings = EncoderSettings(name="x", weights=str(path), input=declared)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU()).eval()
    image = probe_images()[0].resize((24, 24))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    with torch.inference_mode():
        expected = module((pixels - mean) / 0.2).mean(dim=(2, 3)).numpy()

    encoder = load_encoder(settings)

    assert encoder.dim == 8
    assert np.allclose(encoder.encode(encoder.prepare(image)[None]), expected, atol=1e-4)


def test_onnx_file_of_another_size_names_the_key(tmp_path: Path) -> None:
    path = tiny_models.save_onnx(tmp_path / "x.onnx", side=24)

    with pytest.raises(EncoderError, match=r"set 'input: \{side: \.\.\.\}'"):
        load_encoder(EncoderSettings(name="x", weights=str(path)))


def test_torchscript_of_sscd_is_encoded(tmp_path: Path) -> None:
    path = tiny_models.save_torchscript(tmp_path / "sscd.torchscript.pt")
    settings = EncoderSettings(
        name="sscd", weights=str(path), input=InputSettings(side=32), device="cpu", precision="fp32"
    )

    assert _features(settings).shape == (3, 8)


def test_file_that_is_no_model_is_one_message(tmp_path: Path) -> None:
    for name, message in (("x.onnx", "not an ONNX model"), ("x.pt", "not a TorchScript model")):
        (tmp_path / name).write_bytes(b"<html>not found</html>")
        encoder = "sscd" if name.endswith(".pt") else "x"
        with pytest.raises(EncoderError, match=message):
            load_encoder(EncoderSettings(name=encoder, weights=str(tmp_path / name)))


_FACTORIES = custom_encoders.__name__


def test_factory_receives_weights_options_and_declares_its_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(torch.nn.Linear(192, 5).state_dict(), tmp_path / "m.safetensors")
    document = {
        "name": "ours",
        "factory": f"{_FACTORIES}:scaled",
        "weights": str(tmp_path / "m.safetensors"),
        "version": "1",
        "device": "cpu",
    }
    plain = EncoderSettings.model_validate(document)
    scaled = EncoderSettings.model_validate({**document, "options": {"factor": 2.0}})

    assert load_encoder(plain).input_size == 8  # type: ignore[attr-defined]
    assert not np.allclose(_features(plain), _features(scaled))
    assert fingerprint(plain) != fingerprint(scaled)


@pytest.mark.parametrize(
    ("function", "keys", "message"),
    [
        ("module", {"options": {"factor": 2}}, "cannot be called with factor"),
        ("scaled", {}, "cannot be called with nothing .*missing a required argument: 'weights'"),
        ("dictionary_transform", {}, "transform returns dict with the keys pixel_values"),
        ("text_transform", {}, "transform returns str, not an array"),
        ("object_module", {}, "module returns dict, not a tensor"),
    ],
)
def test_refusal_of_a_factory_names_the_part(
    function: str, keys: dict[str, object], message: str
) -> None:
    settings = {"name": "x", "factory": f"{_FACTORIES}:{function}", "version": "1", **keys}

    with pytest.raises(EncoderError, match=message):
        load_encoder(EncoderSettings.model_validate(settings))


def test_large_input_makes_small_batches(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    device = [torch.device("cpu")]

    small = TorchEncoder(module, np.asarray, 3, device, input_size=224)
    large = TorchEncoder(module, np.asarray, 3, device, input_size=518)

    assert large.batch_size < small.batch_size


def test_declared_threshold_is_the_recommended_one(tmp_path: Path) -> None:
    assert EncoderSettings(name="resnet50", threshold=0.75).recommended_threshold == 0.75
