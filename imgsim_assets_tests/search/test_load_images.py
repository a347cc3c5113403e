from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets import ImageSimilarityModel, load_images
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError, SourceError
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.model_datasets import write_image_folder
from imgsim_assets_tests.support.web import Web


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shelf = write_image_folder(tmp_path / "shelf", range(3))
    write_image_folder(shelf / "below", range(3, 5))
    return shelf


def _names(frame: pl.DataFrame) -> list[str]:
    return [Path(path).name for path in frame["path"]]


def test_folder_is_loaded_recursively_sorted_by_path(folder: Path) -> None:
    frame = load_images(folder)

    assert frame.schema == {"path": pl.String, "image": pl.Binary}
    assert _names(frame) == ["000.jpg", "001.jpg", "002.jpg", "003.jpg", "004.jpg"]
    assert frame["image"][3] == jpeg(3)
    assert _names(load_images(folder, recursive=False)) == ["000.jpg", "001.jpg", "002.jpg"]
    assert _names(load_images(f"{folder}/00[12].jpg")) == ["001.jpg", "002.jpg"]


def test_invalid_image_is_omitted_or_an_error(folder: Path) -> None:
    (folder / "half.jpg").write_bytes(jpeg(9)[:800])
    (folder / "page.jpg").write_text("<!doctype html>")
    (folder / ".DS_Store").write_bytes(b"x")

    with pytest.warns(UserWarning, match=r"2 of 7 images cannot be used .*half\.jpg: truncated"):
        frame = load_images(folder)

    assert frame.height == 5
    with pytest.raises(SettingsError, match=r"source: 2 of 7"):
        load_images(folder, ignore_failure=False)


def test_loaded_frame_is_saved_with_its_images(folder: Path, tmp_path: Path) -> None:
    (folder / "half.jpg").write_bytes(jpeg(9)[:800])
    with pytest.warns(UserWarning, match="half"):
        load_images(folder).write_parquet(tmp_path / "shelf.parquet")
    for path in folder.rglob("*.jpg"):
        path.unlink()

    loaded = pl.read_parquet(tmp_path / "shelf.parquet")
    model = ImageSimilarityModel.create(loaded, label="path", encoder="hog_color", progress=False)

    assert len(model) == 5
    assert model.failures.height == 0


def test_urls_and_paths_keep_the_order_of_the_list(folder: Path, web: Web) -> None:
    web.pages["/z.jpg"] = jpeg(8)
    sources = [web.url("/z.jpg"), str(folder / "001.jpg"), str(folder / "000.jpg")]

    frame = load_images(sources, download=DownloadSettings(allowed_hosts=(web.address,)))

    assert _names(frame) == ["z.jpg", "001.jpg", "000.jpg"]
    assert frame["image"][0] == jpeg(8)


def test_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(SettingsError, match="empty holds no images"):
        load_images(tmp_path / "empty")
    with pytest.raises(SourceError, match=r"there is no .*nowhere"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="source is empty"):
        load_images([])
