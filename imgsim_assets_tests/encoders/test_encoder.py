from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.encoder import (
    Encoder,
    default_batch_size,
    fingerprint,
    load_encoder,
)
from imgsim_assets.encoders.hog_color import HogColor
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import EncoderError
from imgsim_assets_tests.support import custom_encoders, encoders
from imgsim_assets_tests.support.fresh_python import printed_lines
from imgsim_assets_tests.support.images import make_image

THUMBNAIL = f"{encoders.__name__}:thumbnail"

# ---- fingerprints -----------------------------------------------------------------------


def test_fingerprint_is_unique_for_each_encoder_and_weights(tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"weights")
    choices = [
        EncoderSettings(name=name, weights=weights)
        for name, backbone in BACKBONES.items()
        for weights in (*backbone.weights, str(tmp_path / "own.pth"))
    ]
    choices.append(EncoderSettings(name="hog_color"))
    choices.append(EncoderSettings(name="hog_color", factory=THUMBNAIL, version="1"))

    prints = [fingerprint(settings) for settings in choices]

    assert len(set(prints)) == len(choices)
    assert all(len(one) == 16 and set(one) <= set("0123456789abcdef") for one in prints)


def test_fingerprint_is_the_same_for_named_default_weights() -> None:
    for name, backbone in BACKBONES.items():
        named = EncoderSettings(name=name, weights=backbone.default_weights)

        assert fingerprint(named) == fingerprint(EncoderSettings(name=name))


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings(name="resnet50"),
        EncoderSettings(name="hog_color"),
        EncoderSettings(factory=THUMBNAIL, version="1"),
    ],
    ids=["resnet50", "hog_color", "factory"],
)
def test_fingerprint_ignores_device_and_batch_size(settings: EncoderSettings) -> None:
    elsewhere = settings.model_copy(update={"device": "cuda:3", "batch_size": 99})

    assert fingerprint(elsewhere) == fingerprint(settings)


def test_fingerprint_depends_on_precision_and_resize() -> None:
    choices = [
        EncoderSettings(name="resnet50", precision=precision, resize=resize)
        for precision in ("fp32", "bf16")
        for resize in ("stretch", "weights_transform")
    ]

    assert len({fingerprint(settings) for settings in choices}) == 4
    assert fingerprint(EncoderSettings(name="resnet50")) == fingerprint(choices[0])


def test_fingerprint_depends_on_gpu_decoding() -> None:
    choices = [
        EncoderSettings(name="resnet50", precision=precision, decode=decode)
        for precision in ("fp32", "bf16")
        for decode in ("cpu", "gpu")
    ]

    assert len({fingerprint(settings) for settings in choices}) == 4
    assert fingerprint(EncoderSettings(name="resnet50")) == fingerprint(choices[0])


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        (EncoderSettings(name="mobilenet_v3_large"), "dc54a524f284e666"),
        (EncoderSettings(name="mobilenet_v3_large", precision="bf16"), "e4e74ae7cc7c6536"),
        (
            EncoderSettings(name="mobilenet_v3_large", resize="weights_transform"),
            "15eee2c1afe6d155",
        ),
        (EncoderSettings(name="resnet50"), "927c680760af4097"),
        (EncoderSettings(name="hog_color"), "9d6dcde065bb9368"),
        (EncoderSettings(factory=THUMBNAIL, version="1"), "67dd126af1ffc79b"),
    ],
)
def test_fingerprints_of_stored_vectors_stay_stable(settings: EncoderSettings, known: str) -> None:
    """Change these values only together with a version constant."""
    assert fingerprint(settings) == known


def test_fingerprint_hashes_content_of_weights_file(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)

    first, copy, other = (
        fingerprint(EncoderSettings(name="resnet18", weights=str(tmp_path / name)))
        for name in ("a.pth", "b.pth", "c.pth")
    )
    (tmp_path / "a.pth").write_bytes(b"two")
    changed = fingerprint(EncoderSettings(name="resnet18", weights=str(tmp_path / "a.pth")))

    assert first == copy
    assert first != other
    assert changed == other


@pytest.mark.parametrize("path", ["gone.pth", "."])
def test_unreadable_weights_file_is_named_in_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    path = str(tmp_path / (path if path != "." else "folder.pth"))

    with pytest.raises(EncoderError, match=f"weights: {path} cannot be read"):
        fingerprint(EncoderSettings(name="resnet18", weights=path))


def test_fingerprint_of_factory_depends_on_name_and_version() -> None:
    prints = {
        fingerprint(EncoderSettings(factory=factory, version=version))
        for factory in (THUMBNAIL, f"{custom_encoders.__name__}:wide")
        for version in ("1", "2")
    }

    assert len(prints) == 4


def test_fingerprint_of_versioned_factory_does_not_call_it() -> None:
    settings = EncoderSettings(factory="a_package_that_nobody_has:make", version="1")

    assert len(fingerprint(settings)) == 16


def test_fingerprint_of_unversioned_factory_hashes_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_seed(seed: int) -> str:
        monkeypatch.setenv(custom_encoders.SEED, str(seed))
        return fingerprint(_factory("module", version=None))

    assert of_seed(1) == of_seed(1)
    assert of_seed(1) != of_seed(2)


def test_unversioned_encoder_without_weights_is_rejected() -> None:
    with pytest.raises(EncoderError, match=r"ThumbnailEncoder has no weights.*set 'version:'"):
        fingerprint(EncoderSettings(factory=THUMBNAIL))


def test_fingerprint_and_stage_do_not_import_torch_or_faiss(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.pth").write_bytes(b"weights")
    lines = printed_lines(
        """
import sys
import imgsim_assets.encoders.stage, imgsim_assets.index.stage
import imgsim_assets.similarity.matches, imgsim_assets.similarity.graph
import imgsim_assets.similarity.audit
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.settings import EncoderSettings
for weights in (None, "IMAGENET1K_V1", sys.argv[1]):
    settings = EncoderSettings(name="resnet50", weights=weights)
    print(fingerprint(settings))
print(fingerprint(EncoderSettings(name="hog_color")))
print(sorted({"torch", "torchvision", "faiss"} & set(sys.modules)))
""",
        str(tmp_path / "own.pth"),
    )

    here = EncoderSettings(name="resnet50", weights=str(tmp_path / "own.pth"))
    assert lines[2] == fingerprint(here)
    assert lines[3] == fingerprint(EncoderSettings(name="hog_color"))
    assert lines[4] == "[]"


# ---- loading ----------------------------------------------------------------------------


def test_load_encoder_returns_hog_color_by_name() -> None:
    assert isinstance(load_encoder(EncoderSettings(name="hog_color")), HogColor)


def test_factory_may_return_an_encoder_object() -> None:
    encoder = load_encoder(EncoderSettings(factory=THUMBNAIL, version="1"))

    features = encoder.encode(
        np.stack([encoder.prepare(make_image(1)), encoder.prepare(make_image(2))])
    )

    assert isinstance(encoder, Encoder)
    assert features.shape == (2, encoder.dim)


def test_factory_takes_precedence_over_builtin_name() -> None:
    settings = EncoderSettings(name="hog_color", factory=THUMBNAIL, version="1")

    assert isinstance(load_encoder(settings), encoders.ThumbnailEncoder)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("a_package_that_nobody_has:make", "No module named 'a_package_that_nobody_has'"),
        (f"{custom_encoders.__name__}:missing", "has no attribute 'missing'"),
        (f"{custom_encoders.__name__}:missing_package", "No module named"),
    ],
)
def test_factory_that_cannot_be_called_is_rejected_with_reason(factory: str, reason: str) -> None:
    with pytest.raises(EncoderError, match=f"factory {factory}: .*{reason}"):
        load_encoder(EncoderSettings(factory=factory, version="1"))


def test_factory_that_returns_none_is_rejected() -> None:
    with pytest.raises(
        EncoderError, match="returns_none returned NoneType; return a CustomEncoder"
    ):
        load_encoder(_factory("returns_none"))


@pytest.mark.parametrize(
    "function", ["NOT_A_FUNCTION", "returns_text", "bare_function", "two_outputs"]
)
def test_factory_that_returns_another_type_is_rejected(function: str) -> None:
    with pytest.raises(EncoderError, match=f"{custom_encoders.__name__}:{function}"):
        load_encoder(_factory(function))


# ---- defaults ---------------------------------------------------------------------------


def test_only_measured_encoders_have_a_recommended_threshold() -> None:
    own = EncoderSettings(name="hog_color", factory=THUMBNAIL, version="1")

    assert EncoderSettings(name="hog_color").recommended_threshold == 0.9
    assert EncoderSettings(name="resnet50").recommended_threshold is None
    assert own.recommended_threshold is None
    assert own.model_copy(update={"threshold": 0.7}).recommended_threshold == 0.7


class _Particular(HogColor):
    batch_size = 3


@pytest.mark.parametrize(("encoder", "suits"), [(HogColor(), 8), (_Particular(), 3)])
def test_declared_batch_size_overrides_encoder_batch_size(encoder: Encoder, suits: int) -> None:
    assert default_batch_size(EncoderSettings(batch_size=33), encoder) == 33
    assert default_batch_size(EncoderSettings(), encoder) == suits


def _factory(function: str, version: str | None = "1") -> EncoderSettings:
    return EncoderSettings(
        factory=f"{custom_encoders.__name__}:{function}", version=version, device="cpu"
    )
