"""Probe vectors: an encoder that changed under the same fingerprint is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.encoders.encoder import fingerprint, load_encoder
from imgsim_assets.encoders.engine import Engine
from imgsim_assets.encoders.probe import (
    PROBE,
    probe_images,
    probe_vectors,
    require_same_vectors,
    to_property,
)
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import EncoderError
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.catalogs import embed_shards, fill, tiny

_OWN = EncoderSettings(
    name="five", factory=f"{custom_encoders.__name__}:module", version="1", device="cpu"
)


def _probe(settings: EncoderSettings, batch_size: int = 4) -> np.ndarray:
    return probe_vectors(Engine(load_encoder(settings), batch_size))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_probes_are_square_wide_and_tall_and_the_same_every_time() -> None:
    images = probe_images()

    assert [(image.mode, image.size) for image in images] == [
        ("RGB", (96, 96)),
        ("RGB", (320, 120)),
        ("RGB", (120, 320)),
    ]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in probe_images()]


def test_probe_vectors_have_length_one_in_any_batch() -> None:
    settings = EncoderSettings(name="hog_color")

    vectors = _probe(settings)

    assert vectors.shape == (3, 772)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    require_same_vectors(to_property(vectors), _probe(settings, batch_size=1), "hog_color")


def test_changed_encoder_stops_before_it_mixes_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(3)})
    embed_shards(store, "shop", _OWN, shards)
    before = VectorTable(store, "shop", fingerprint(_OWN)).keys()
    shards = fill(store, "shop", {f"item{seed}": tiny(seed) for seed in range(5)})
    monkeypatch.setenv(custom_encoders.SEED, "1")

    with pytest.raises(EncoderError, match="no longer gives the vectors"):
        embed_shards(store, "shop", _OWN, shards)

    assert VectorTable(store, "shop", fingerprint(_OWN)).keys() == before
    monkeypatch.setenv(custom_encoders.SEED, "0")
    (report,) = embed_shards(store, "shop", _OWN, shards)
    assert report.embedded == 2


def test_probe_of_another_catalog_counts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_shards(store, "left", _OWN, fill(store, "left", {"a": tiny(1)}))
    shards = fill(store, "right", {"b": tiny(2)})
    monkeypatch.setenv(custom_encoders.SEED, "1")

    with pytest.raises(EncoderError, match="no longer gives the vectors"):
        embed_shards(store, "right", _OWN, shards)


def test_run_with_nothing_to_embed_makes_no_forward_pass_and_keeps_the_probe(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = fill(store, "shop", {"a": tiny(1), "b": tiny(2)})
    embed_shards(store, "shop", _OWN, shards)
    shards = fill(store, "shop", {"a": tiny(1)})
    monkeypatch.setenv(custom_encoders.SEED, "1")  # would be noticed by a forward pass

    (report,) = embed_shards(store, "shop", _OWN, shards)

    assert report.changed
    commit = embeddings_table(store, "shop").latest()
    assert commit is not None
    require_same_vectors(commit.properties[PROBE], _first_probe(monkeypatch), "five")


def _first_probe(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setenv(custom_encoders.SEED, "0")
    return _probe(_OWN)


def test_encoder_of_another_width_is_named() -> None:
    vectors = _probe(EncoderSettings(name="hog_color"))

    with pytest.raises(EncoderError, match="772 numbers before, 5 now"):
        require_same_vectors(to_property(vectors), np.zeros((3, 5), np.float32), "the encoder")
