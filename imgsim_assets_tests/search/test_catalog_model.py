from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgsim_assets import load_model
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import (
    EncoderError,
    SettingsError,
    StoreError,
)
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import custom_encoders
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import jpeg, make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    query_model,
)
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.weights import save_weights, untrained


def test_catalog_is_read_without_computing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))
    images = {f"item{seed}": tiny(seed) for seed in range(5)}
    indexed(store, "products", {**images, "gone": None})
    before, encodings = versions(store), encoded_count(counter)

    model = create_model("products", store=store, factory=THUMBNAIL.factory)
    graph = model.similarity_graph(k=1)
    by_bytes = query_model(model, images["item3"], k=1)

    assert model.labels.to_list() == sorted(images)
    assert graph.edges.height == 5
    assert by_bytes.row(0)[1:3] == ("item3", 0.0)
    assert versions(store) == before
    assert encoded_count(counter) == encodings
    assert model.summary("dict")["catalog"]["name"] == "products"
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model", factory=THUMBNAIL.factory)
    assert query_model(again, tiny(99), k=2).equals(query_model(model, tiny(99), k=2))


def test_catalog_of_items_with_several_images_is_read(store: Store, tmp_path: Path) -> None:
    indexed(store, "products", {"a": [None, tiny(1), tiny(2)], "b": tiny(3), "c": [tiny(4)] * 2})

    model = create_model("products", store=store, factory=THUMBNAIL.factory)

    assert model.entries.rows() == [("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]
    assert query_model(model, tiny(2), k=1).rows() == [(0, "a", 2, 0.0, 1)]
    assert query_model(model, tiny(4), k=1).rows() == [(0, "c", 0, 0.0, 1)]
    assert query_model(model, tiny(9), k=3)["reference_label"].n_unique() == 3
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model", factory=THUMBNAIL.factory)
    assert again.entries.equals(model.entries)


def test_query_by_a_catalog_encodes_only_with_another_encoder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    indexed(store, "suppliers", {"s": [tiny(9), tiny(2)], "t": tiny(3)})
    model = create_model("products", store=store, factory=THUMBNAIL.factory)
    other = create_model("products", store=store, factory=THUMBNAIL.factory)
    other.add("suppliers", progress=False)
    plain = create_model([tiny(2), tiny(3)], store=store)
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))

    found = query_model(model, "suppliers", k=1)

    assert found.rows() == [("s", 1, "p2", 0.0, 1), ("t", 0, "p3", 0.0, 1)]
    assert encoded_count(counter) == 0
    assert len(other) == 6
    assert query_model(plain, "suppliers", k=1)["reference_label"].to_list() == [0, 1]
    with pytest.raises(SettingsError, match="dataset: 'shoes' is neither a folder nor a catalog"):
        query_model(model, "shoes")


def test_query_by_a_catalog_whose_ids_look_like_numbers_and_whose_items_have_several_images(
    store: Store,
) -> None:
    indexed(store, "products", {"007": [tiny(1), tiny(2)], "7": tiny(3), "1e3": tiny(4)})
    indexed(
        store, "suppliers", {"1": [tiny(9), tiny(2)], "02": tiny(3), "null": tiny(4), "x": None}
    )
    model = create_model("products", store=store, factory=THUMBNAIL.factory)

    found = query_model(model, "suppliers", k=1)

    columns = ["query_label", "query_image", "reference_label", "reference_image", "distance"]
    assert found.select(columns).rows() == [
        ("02", 0, "7", 0, 0.0),
        ("1", 1, "007", 1, 0.0),
        ("null", 0, "1e3", 0, 0.0),
    ]
    with pytest.raises(SettingsError, match="dataset is an empty text"):
        query_model(model, "")


def test_unknown_catalog_is_an_error(store: Store) -> None:
    with pytest.raises(SettingsError, match="'shoes' is neither a folder nor a catalog"):
        create_model("shoes", store=store)


@pytest.mark.parametrize("is_catalog", [False, True], ids=["images", "catalog"])
def test_moved_weights_file_is_accepted_if_its_content_is_the_same(
    is_catalog: bool, store: Store, tmp_path: Path
) -> None:
    weights = Path(save_weights(untrained("squeezenet1_1"), tmp_path / "first.pth"))
    other = save_weights(untrained("squeezenet1_1", seed=1), tmp_path / "other.pth")
    encoder = EncoderSettings(name="squeezenet1_1", weights=str(weights), precision="fp32")
    if is_catalog:
        indexed(store, "products", {"a": jpeg(1), "b": jpeg(2)}, encoder)
    dataset: Any = "products" if is_catalog else [jpeg(1), jpeg(2)]
    model = create_model(dataset, encoder=encoder, store=store)
    model.save(tmp_path / "model")
    expected = query_model(model, make_image(3))
    moved = str(weights.rename(tmp_path / "moved.pth"))

    with pytest.raises(EncoderError, match=r"first.pth, with which the model's .*weights=FILE"):
        query_model(load_model(tmp_path / "model"), make_image(3))
    with pytest.raises(StoreError, match="the model's vectors were not made by the encoder"):
        query_model(load_model(tmp_path / "model", weights=other), make_image(3))
    with pytest.raises(SettingsError, match="device: 'gpu' is not one of auto, cpu"):
        load_model(tmp_path / "model", device="gpu")
    if is_catalog:
        again = create_model("products", store=store, weights=moved, device="cpu")
        assert query_model(again, make_image(3)).equals(expected)
    loaded = load_model(tmp_path / "model", weights=moved, device="cpu")
    assert query_model(loaded, make_image(3)).equals(expected)
    loaded.save(tmp_path / "model")
    assert query_model(load_model(tmp_path / "model"), make_image(3)).equals(expected)


def test_changed_encoder_of_a_catalog_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "factory": f"{custom_encoders.__name__}:module",
        "device": "cpu",
        "precision": "fp32",
    }
    named = {"factory": settings["factory"]}
    monkeypatch.setenv(custom_encoders.SEED, "1")
    indexed(store, "products", {"a": jpeg(1)}, EncoderSettings.model_validate(settings))
    assert query_model(create_model("products", store=store, **named), make_image(2)).height == 1
    monkeypatch.setenv(custom_encoders.SEED, "2")

    with pytest.raises(StoreError, match="the model's vectors were not made by the encoder"):
        query_model(create_model("products", store=store, **named), make_image(2))
