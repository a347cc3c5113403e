from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from PIL import Image

from imgsim_assets import ImageSimilarityModel
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import (
    SettingsError,
)
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    write_image_folder,
)
from imgsim_assets_tests.support.web import Web


def test_pandas_and_polars_frames_give_the_same_model(images: pl.DataFrame) -> None:
    as_pandas = pd.DataFrame(images.to_dict(as_series=False))

    left = create_model(images, label="number", feature="path")
    right = create_model(as_pandas, label="number", feature="path")

    assert (left.vectors == right.vectors).all()
    assert left.labels.equals(right.labels)


def test_folder_is_read_sorted_by_path(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "shelf", range(3))
    (folder / "below").mkdir()
    (folder / "below" / "x.png").write_bytes(encoded(make_image(7), "PNG"))
    (folder / ".DS_Store").write_bytes(b"noise")
    (folder / "notes.txt").write_text("no image")

    model = create_model(str(folder), label="path")

    names = [Path(label).name for label in model.labels]
    assert names == ["000.jpg", "001.jpg", "002.jpg", "x.png"]
    assert create_model(f"{folder}/*.jpg").labels.to_list() == [0, 1, 2]


def test_urls_are_fetched_once_and_failures_are_rows(web: Web) -> None:
    web.pages["/a.jpg"] = jpeg(1)
    web.pages["/b.jpg"] = jpeg(2)
    urls = [web.url(path) for path in ("/a.jpg", "/b.jpg", "/gone.jpg", "/a.jpg")]
    allowed = DownloadSettings(allowed_hosts=(web.address,), retries=0)

    with pytest.warns(UserWarning, match=r"1 of 4 images cannot be used .*http_404"):
        model = create_model({"url": urls}["url"], download=allowed)

    assert model.labels.to_list() == [0, 1, 3]
    assert model.failures.select("label", "image", "status").rows() == [("2", 0, "http_404")]
    assert web.gets["/a.jpg"] == 1


def test_urls_are_fetched_inside_a_running_event_loop(web: Web) -> None:
    web.pages["/a.jpg"] = jpeg(1)
    allowed = DownloadSettings(allowed_hosts=(web.address,))

    async def in_a_notebook() -> ImageSimilarityModel:
        return create_model([web.url("/a.jpg")], download=allowed)

    assert len(asyncio.run(in_a_notebook())) == 1


def test_internal_addresses_are_refused(web: Web) -> None:
    with pytest.raises(SettingsError, match="blocked_address"):
        create_model([web.url("/a.jpg")])
    assert web.total_gets == 0


def test_invalid_image_does_not_affect_the_others(images: pl.DataFrame, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(jpeg(1)[:900])
    paths = [*images["path"].to_list(), str(bad), str(tmp_path / "gone.jpg"), None]

    with pytest.warns(UserWarning, match="3 of 9 images cannot be used"):
        model = create_model(pl.DataFrame({"path": paths}))

    assert len(model) == 6
    assert model.failures.select("label", "status").rows() == [
        ("6", "truncated"),
        ("7", "missing_file"),
        ("8", "no_image"),
    ]
    with pytest.raises(
        SettingsError, match=r"dataset: 3 of 9 .*bad\.jpg: truncated.*ignore_failure"
    ):
        create_model(pl.DataFrame({"path": paths}), ignore_failure=False)


def test_images_without_content_are_omitted_as_invalid_ones_are(images: pl.DataFrame) -> None:
    blank, icon = Image.new("RGB", (90, 90), "white"), make_image(3).resize((9, 9))

    with pytest.warns(UserWarning, match="3 of 5 images cannot be used") as caught:
        model = create_model([[images["path"][0], blank], [icon, blank], images["path"][1]])

    assert len(caught) == 1
    assert model.entries.rows() == [(0, 0), (2, 0)]
    assert model.failures.select("label", "image", "status").rows() == [
        ("0", 1, "blank"),
        ("1", 0, "too_small"),
        ("1", 1, "blank"),
    ]
    with pytest.raises(SettingsError, match="blank, a single color"):
        model.query(blank, progress=False)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ([], {}, "dataset is empty; give at least one row"),
        (pl.DataFrame({"path": []}, schema={"path": pl.String}), {}, "dataset is empty"),
        (
            pl.DataFrame({"path": ["x"]}),
            {"label": "id"},
            "label: dataset has no column 'id'; it",
        ),
        (pl.DataFrame({"path": ["x"]}), {"feature": "im"}, "feature: dataset has no column 'im'"),
        (pl.DataFrame({"a": [1], "b": [2]}), {}, "feature: no column of dataset is clearly"),
        (pl.DataFrame({"a": ["x"], "b": ["y"]}), {}, "feature: no column .* name one of 'a', 'b'"),
        (pl.DataFrame({"a": [b"x"], "b": [b"y"]}), {}, "feature: 'a', 'b' are candidates"),
        (pl.DataFrame({"a": [1.5], "p": ["x"]}), {"label": "a"}, "label: column 'a' holds Float64"),
        (pl.DataFrame({"a": [1], "p": ["x"]}), {"feature": "a"}, "feature: column 'a' holds Int64"),
        (pl.DataFrame({"a": [1, None], "p": ["x"] * 2}), {"label": "a"}, "'a' is null in row 1"),
        (
            pl.DataFrame({"a": [1, 1], "v": [[1.0]] * 2}),
            {"label": "a"},
            "label: 1 is not unique",
        ),
        ([[1.0, 2.0], [1.0]], {}, "have 1 and 2 numbers; all must have the same"),
        ([[1.0, math.inf]], {}, "the vector of row 0 is not finite"),
        ([object()], {}, "dataset row 0 .* is object; give a PIL image"),
        (17, {}, "dataset is int; give a frame of polars or pandas"),
        (["gone.jpg"], {}, r"1 of 1 image cannot be used \(gone.jpg: missing_file"),
        ([b"x"], {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ([b"x"], {"metric": "l1"}, "metric is 'l1'; use 'euclidean' or 'cosine'"),
        ([b"x"], {"encoder": "hog_colour"}, "^encoder: name: unknown .*did you mean hog_color"),
        (
            [b"x"],
            {"encoder": {"name": "resnet18", "precision": "half", "num_gpus": "all"}},
            "^encoder: num_gpus: 'all' is not .*; precision: 'half' is not a choice; write [^\n]*$",
        ),
        ([[0.0, 0.0]], {"metric": "cosine"}, "row 0 is zero and has no cosine"),
    ],
)
def test_wrong_arguments_are_named_with_the_fix(
    dataset: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        create_model(dataset, **options)
