from __future__ import annotations

import json
from pathlib import Path

import pytest

from imgsim_assets import load_model
from imgsim_assets.errors import (
    CorruptFileError,
    SettingsError,
    StoreError,
)
from imgsim_assets_tests.support.images import make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
)
from imgsim_assets_tests.support.tables import resealed


def test_save_replaces_only_a_saved_model(tmp_path: Path) -> None:
    create_model([make_image(0)]).save(tmp_path / "m")
    create_model([make_image(0), make_image(1)]).save(tmp_path / "m")
    (tmp_path / "thesis").mkdir()

    assert len(load_model(tmp_path / "m")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "thesis"]
    with pytest.raises(SettingsError, match=r"thesis exists and is not a saved model"):
        create_model([make_image(0)]).save(tmp_path / "thesis")


def test_load_rejects_other_formats_and_corrupt_files(tmp_path: Path) -> None:
    model = create_model([make_image(0)])
    for name in ("newer", "damaged", "cut"):
        model.save(tmp_path / name)
    document = tmp_path / "newer" / "model.json"
    document.write_bytes(resealed({**json.loads(document.read_bytes()), "format": 5}))
    references = tmp_path / "damaged" / "references.parquet"
    references.write_bytes(references.read_bytes()[:-1] + b"?")
    (tmp_path / "cut" / "model.json").write_text("{")

    with pytest.raises(StoreError, match=r"saved in format 5, .* reads formats 3 and 4"):
        load_model(tmp_path / "newer")
    with pytest.raises(CorruptFileError, match="does not match the checksum"):
        load_model(tmp_path / "damaged")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        load_model(tmp_path / "cut")
    with pytest.raises(StoreError, match="holds no saved model"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "references.parquet"])
def test_load_rejects_every_changed_byte(tmp_path: Path, name: str) -> None:
    create_model([make_image(0)]).save(tmp_path / "m")
    path = tmp_path / "m" / name
    whole = path.read_bytes()

    for position in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CorruptFileError, match=name) as error:
            load_model(tmp_path / "m")
        assert "\n" not in str(error.value)


def test_load_rejects_a_model_of_an_earlier_snapshot_in_one_line(tmp_path: Path) -> None:
    create_model([make_image(0)]).save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    document = json.loads(path.read_text())
    document["encoder"]["preprocess"] = document["encoder"].pop("resize")
    path.write_bytes(resealed({**document, "format": 1}))

    with pytest.raises(StoreError, match=r"saved in format 1, .*; use the version .*") as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)
