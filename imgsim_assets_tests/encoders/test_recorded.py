from __future__ import annotations

from pathlib import Path

import pytest

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.recorded import encoder_from_commit, require_encoder, with_overrides
from imgsim_assets.encoders.settings import HOG_COLOR, EncoderSettings
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import EncoderError, SettingsError, StoreError
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.images import jpeg


def test_recorded_encoder_has_no_device(store: Store) -> None:
    indexed(store, "shop", {"a": jpeg(1)}, EncoderSettings(name=HOG_COLOR, device="cpu"))
    commit = embeddings_table(store, "shop").latest()
    assert commit is not None

    recorded = encoder_from_commit(commit)

    assert (recorded.name, recorded.device, recorded.precision) == (HOG_COLOR, "auto", "fp32")


def test_with_overrides_changes_only_given_settings() -> None:
    recorded = EncoderSettings(name="resnet18", weights="/there/own.pth", batch_size=3)

    assert with_overrides(recorded) == recorded
    moved = with_overrides(recorded, "cpu", "/here/own.pth")

    assert (moved.device, moved.weights) == ("cpu", "/here/own.pth")
    assert (moved.name, moved.batch_size) == ("resnet18", 3)


def test_relative_weights_override_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = EncoderSettings(name="resnet18", weights="/there/own.pth")

    assert with_overrides(recorded, weights="own.pth").weights == str(tmp_path / "own.pth")
    assert with_overrides(EncoderSettings(name="resnet18"), "cpu").weights is None


@pytest.mark.parametrize(
    ("name", "device", "weights", "message"),
    [
        (HOG_COLOR, None, "own.pth", "weights: hog_color takes none"),
        ("resnet18", "tpu", None, "device: 'tpu' is not one of"),
        ("resnet18", None, "V9", "weights: resnet18 has no 'V9'"),
    ],
)
def test_invalid_overrides_raise_settings_error(
    name: str, device: str | None, weights: str | None, message: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        with_overrides(EncoderSettings(name=name), device, weights)


def test_moved_weights_are_the_same_encoder(tmp_path: Path) -> None:
    for name, content in (("first", b"1"), ("copy", b"1"), ("other", b"2")):
        (tmp_path / f"{name}.pth").write_bytes(content)
    first, copy, other, gone = (
        EncoderSettings(name="resnet18", weights=str(tmp_path / f"{name}.pth"), precision="fp32")
        for name in ("first", "copy", "other", "gone")
    )
    encoder_fingerprint = fingerprint(first)

    require_encoder(copy, encoder_fingerprint, "its vectors")
    with pytest.raises(StoreError, match=r"its vectors were not made by .* resnet18 .*--weights"):
        require_encoder(other, encoder_fingerprint, "its vectors")
    with pytest.raises(StoreError, match="precision"):
        require_encoder(
            copy.model_copy(update={"precision": "bf16"}), encoder_fingerprint, "its vectors"
        )
    with pytest.raises(EncoderError, match=r"gone\.pth, with which its vectors were made, is not"):
        require_encoder(gone, encoder_fingerprint, "its vectors")
