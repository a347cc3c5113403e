from __future__ import annotations

import threading
from pathlib import Path

import pytest

from imgsim_assets import set_num_gpus
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import (
    EncoderError,
    ImgsimError,
    SettingsError,
)
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    noise_image,
    query_model,
)
from imgsim_assets_tests.support.weights import save_weights, untrained


def test_queries_reuse_the_encoder_threads() -> None:
    def encoding() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("encode")}

    others = encoding()
    model = create_model([noise_image(235, 1)], encoder=THUMBNAIL)
    threads = encoding() - others
    for seed in range(5):
        query_model(model, [noise_image(235, seed + 78)])

    assert threads
    assert encoding() - others == threads


def test_set_num_gpus_applies_to_new_encoders(tmp_path: Path) -> None:
    weights = save_weights(untrained("resnet18"), tmp_path / "resnet18.pth")
    try:
        set_num_gpus(1000)
        with pytest.raises(EncoderError, match="does not have 1000"):
            create_model([make_image(0)], encoder=EncoderSettings(name="resnet18", weights=weights))
        set_num_gpus(0)
        model = create_model(
            [make_image(0)], encoder=EncoderSettings(name="resnet18", weights=weights)
        )
        assert str(getattr(model.encoder, "device", "")) == "cpu"
        with pytest.raises(SettingsError, match="count is -2; use -1"):
            set_num_gpus(-2)
    finally:
        set_num_gpus(-1)


def test_missing_weights_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    settings = EncoderSettings(name="resnet18", weights=str(tmp_path / "gone.pth"))

    with pytest.raises(ImgsimError, match=r"gone\.pth"):
        create_model([make_image(0)], encoder=settings)
