from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from imgsim_assets.encoders import hardware
from imgsim_assets.encoders.encoder import fingerprint, load_encoder
from imgsim_assets.encoders.precision import resolve_precision
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import EmbeddingStage
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import EncoderError
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, fill
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.weights import save_weights, save_zero_weights, untrained

SQUEEZENET = EncoderSettings(name="squeezenet1_1", device="cpu")


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp32")])
def test_first_run_uses_fastest_precision_of_machine(
    able: bool, expected: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, able)

    assert resolve_precision(store, "shop", SQUEEZENET, None).precision == expected


@pytest.mark.parametrize(
    ("device", "num_gpus", "has_driver", "has_card", "card_is_able", "expected"),
    [
        ("auto", -1, True, True, True, "bf16"),
        ("auto", -1, True, True, False, "fp32"),
        ("cuda:1", -1, True, True, True, "bf16"),
        # The CPU, which is the opposite, decides where no GPU will compute.
        ("auto", -1, False, True, True, "fp32"),
        ("auto", -1, True, False, True, "fp32"),
        ("auto", 0, True, True, True, "fp32"),
        ("cpu", -1, True, True, True, "fp32"),
    ],
)
def test_gpu_decides_precision(
    device: str,
    num_gpus: int,
    has_driver: bool,
    has_card: bool,
    card_is_able: bool,
    expected: str,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "_DRIVER_FILES", (str(tmp_path / "nvidiactl"),))
    if has_driver:
        (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: card_is_able)
    _machine(monkeypatch, not card_is_able)
    choice = EncoderSettings(name="squeezenet1_1", device=device, num_gpus=num_gpus)

    assert resolve_precision(store, "shop", choice, None).precision == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_declared_precision_is_kept(
    precision: Literal["fp32", "bf16"], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, precision == "fp32")
    declared = SQUEEZENET.model_copy(update={"precision": precision})

    assert resolve_precision(store, "shop", declared, None) == declared


@pytest.mark.parametrize("choice", [EncoderSettings(name="hog_color"), THUMBNAIL])
def test_only_torchvision_models_use_bf16(
    choice: EncoderSettings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, True)

    assert resolve_precision(store, "shop", choice, None).precision == "fp32"


@pytest.mark.parametrize("able_at_first", [True, False])
def test_first_run_of_store_decides_precision(
    able_at_first: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    choice = SQUEEZENET.model_copy(update={"weights": path})
    shards = fill(store, "shop", {"a": jpeg(1)})
    _machine(monkeypatch, able_at_first)
    first = EmbeddingStage(store, "shop", choice).run(shards[0])

    _machine(monkeypatch, not able_at_first)

    again = EmbeddingStage(store, "shop", choice)
    assert (again.fingerprint, again.run(shards[0]).changed) == (first.fingerprint, False)
    assert EmbeddingStage(store, "another", choice).fingerprint == first.fingerprint
    assert first.precision == ("bf16" if able_at_first else "fp32")


def test_own_embeddings_decide_before_those_of_other_catalogs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, True)
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    choice = SQUEEZENET.model_copy(update={"weights": path})
    for name, precision in (("another", "bf16"), ("shop", "bf16"), ("shop", "fp32")):
        declared = choice.model_copy(update={"precision": precision})
        EmbeddingStage(store, name, declared).run(fill(store, name, {"a": jpeg(1)})[0])

    fp32 = fingerprint(choice.model_copy(update={"precision": "fp32"}))
    assert EmbeddingStage(store, "shop", choice).fingerprint == fp32


def test_missing_bf16_raises_and_changes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, True)
    path = save_weights(untrained("squeezenet1_1"), tmp_path / "own.pth")
    choice = SQUEEZENET.model_copy(update={"weights": path})
    first = EmbeddingStage(store, "shop", choice).run(fill(store, "shop", {"a": jpeg(1)})[0])
    (shard,) = fill(store, "shop", {"a": jpeg(1), "b": jpeg(2)})
    _machine(monkeypatch, False)

    with pytest.raises(EncoderError, match="this catalog's vectors are computed in bf16"):
        EmbeddingStage(store, "shop", choice).run(shard)

    newest = embeddings_table(store, "shop").latest()
    assert newest is not None
    assert (newest.version, newest.properties["fingerprint"]) == (1, first.fingerprint)
    assert [name for name in store.table_names() if "/vectors/" in name] == [
        f"shop/vectors/{first.fingerprint}"
    ]
    # A run without a forward pass succeeds on any machine.
    assert EmbeddingStage(store, "shop", choice).run(
        fill(store, "shop", {"a": jpeg(1)})[0]
    ).statuses == {"ok": 1}


def test_missing_bf16_message_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, False)
    path = save_zero_weights("squeezenet1_1", tmp_path / "own.pth")

    with pytest.raises(EncoderError, match=r"precision: .* bf16.*or set 'precision: fp32'"):
        load_encoder(
            EncoderSettings(name="squeezenet1_1", weights=path, device="cpu", precision="bf16")
        )


def _machine(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda: able)
