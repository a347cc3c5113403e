from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

import imgsim_assets
from imgsim_assets import ImageSimilarityModel, load_images
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.model_datasets import create_model, write_image_folder

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def model(tmp_path: Path) -> ImageSimilarityModel:
    frame = load_images(write_image_folder(tmp_path / "pics", range(5))).with_columns(
        name=pl.Series(["a", "b", "</script><script>alert(1)</script>", "d", "<b>"])
    )
    return ImageSimilarityModel.create(
        frame, label="name", feature="image", encoder="hog_color", progress=False
    )


def _data(page: Path) -> dict[str, Any]:
    result = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    assert result is not None
    data: dict[str, Any] = json.loads(result[1])
    return data


def test_gallery_shows_queries_with_their_neighbors(
    model: ImageSimilarityModel, tmp_path: Path
) -> None:
    queries = pl.DataFrame({"id": [7, 8], "image": [jpeg(1), jpeg(40)]})
    result = model.query(queries, label="id", k=3, progress=False)

    page = model.explore(tmp_path / "g.html", result, queries, label="id")

    data = _data(page)
    assert [row["label"] for row in data["rows"]] == ["7", "8"]
    first = data["rows"][0]
    assert [item["label"] for item in first["neighbors"]] == result["reference_label"][:3].to_list()
    assert first["neighbors"][0]["distance"] == 0.0
    assert first["neighbors"][0]["images"] == first["images"]  # equal bytes, embedded once
    assert data["rows"][1]["images"] != first["images"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in data["images"])


def test_gallery_is_self_contained_and_escapes_labels(
    model: ImageSimilarityModel, tmp_path: Path
) -> None:
    text = model.explore(tmp_path / "g.html").read_text()

    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


def test_explore_requires_the_queried_dataset(model: ImageSimilarityModel, tmp_path: Path) -> None:
    result = model.query(make_image(3), progress=False)

    with pytest.raises(SettingsError, match="queries: give the dataset that was queried"):
        model.explore(tmp_path / "g.html", result)
    with pytest.raises(SettingsError, match="result: it has no column 'distance'"):
        model.explore(tmp_path / "g.html", result.drop("distance"), make_image(3))


def test_missing_image_has_no_thumbnail(model: ImageSimilarityModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = imgsim_assets.load_model(tmp_path / "m")

    rows = _data(loaded.explore(tmp_path / "g.html"))["rows"]

    assert {image["image"] for row in rows for image in row["images"]} == {-1}


def test_explore_shows_a_frame_of_images_with_captions(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"name": ["x", "y"], "score": [0.123456, 1.0], "image": [jpeg(1), b"broken"]}
    )

    page = imgsim_assets.explore(frame, tmp_path / "wall.html", title="Mine <3 @DATA@")

    data = _data(page)
    assert [row["label"] for row in data["rows"]] == ["x, 0.1235", "y, 1"]
    assert [row["images"][0]["image"] for row in data["rows"]] == [0, -1]
    assert "<title>Mine &lt;3 @DATA@</title>" in page.read_text()


def test_gallery_of_a_catalog_shows_its_images(store: Store, tmp_path: Path) -> None:
    indexed(store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3)})

    page = imgsim_assets.explore("products", tmp_path / "wall.html", store=store)

    rows = _data(page)["rows"]
    assert [row["label"] for row in rows] == ["a", "b"]
    assert [[image["image"] for image in row["images"]] for row in rows] == [[0, 1], [2]]
    assert [image["note"] for image in rows[0]["images"]] == ["image 0", "image 1"]
    assert "3 images of 2 items" in page.read_text()


def test_gallery_of_a_match_table_shows_the_images_that_matched(
    store: Store, tmp_path: Path
) -> None:
    indexed(store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3)})
    indexed(store, "suppliers", {"s": [tiny(9), tiny(2)], "t": tiny(3)})
    MatchStage(
        store, "pair", MatchSettings(threshold=0.9, mode="all"), left="products", right="suppliers"
    ).run()
    matches = imgsim_assets.read_table("matches/pair", store=store)

    rows = _data(imgsim_assets.explore(matches, tmp_path / "m.html", store=store))["rows"]

    pairs = [
        (row["label"], row["images"], row["neighbors"][0]["label"], row["neighbors"][0]["images"])
        for row in rows
    ]
    assert pairs == [
        (
            "a",
            [{"image": 0, "note": "image 1"}],
            "s",
            [{"image": 0, "note": "image 1, nearest to image 1"}],
        ),
        ("b", [{"image": 1, "note": ""}], "t", [{"image": 1, "note": ""}]),
    ]
    assert [row["neighbors"][0]["distance"] for row in rows] == [0.0, 0.0]


def test_gallery_shows_every_query_image_and_names_the_nearest(tmp_path: Path) -> None:
    references = pl.DataFrame(
        {"id": ["a", "b"], "image": [[jpeg(1), jpeg(2)], [jpeg(3)]]},
    )
    queries = pl.DataFrame({"id": [7], "image": [[jpeg(9), jpeg(2), b"broken"]]})
    model = create_model(references, label="id")
    with pytest.warns(UserWarning, match="1 of 3 images"):
        result = model.query(queries, label="id", k=2, progress=False)

    (row,) = _data(model.explore(tmp_path / "g.html", result, queries, label="id"))["rows"]

    assert [image["note"] for image in row["images"]] == ["image 0", "image 1", "image 2"]
    assert [image["image"] >= 0 for image in row["images"]] == [True, True, False]
    nearest = row["neighbors"][0]
    assert nearest["label"] == "a"
    assert nearest["images"] == [
        {"image": row["images"][1]["image"], "note": "image 1, nearest to image 1"}
    ]
    graph = _data(model.explore(tmp_path / "graph.html"))["rows"]
    assert [len(row["images"]) for row in graph] == [2, 1]
    assert [image["note"] for image in graph[1]["images"]] == [""]


def test_long_gallery_is_truncated_and_says_so(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image": [jpeg(1)] * 1001})

    text = imgsim_assets.explore(frame, tmp_path / "wall.html").read_text()

    assert "1001 images, the first 1000 shown" in text


def test_show_returns_an_upright_rgb_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(make_image(1), "JPEG", exif=exif))

    shown = imgsim_assets.show(tmp_path / "turned.jpg")

    assert shown.size == (120, 160)
    assert shown.mode == "RGB"
    with pytest.raises(SettingsError, match="image: it cannot be shown: missing_file"):
        imgsim_assets.show(str(tmp_path / "gone.jpg"))
    with pytest.raises(SettingsError, match="give one image"):
        imgsim_assets.show([jpeg(1), jpeg(2)])


@pytest.mark.skipif(_BROWSER is None, reason="needs Chromium")
def test_filters_work_in_a_browser(model: ImageSimilarityModel, tmp_path: Path) -> None:
    page = model.explore(tmp_path / "g.html", k=3)
    graph = model.similarity_graph(k=3, output_type="frame")
    radius = float(graph["distance"].median())
    filtered_page = (
        f"<script>radius.value = {radius}; radius.dispatchEvent(new Event('input'));"
        "text.value = 'B>'; text.dispatchEvent(new Event('input'));</script></body>"
    )
    (tmp_path / "filtered.html").write_text(page.read_text().replace("</body>", filtered_page))

    whole, filtered = (_count(tmp_path / name, tmp_path) for name in ("g.html", "filtered.html"))

    named = pl.col("reference_label").str.to_lowercase().str.contains("b>", literal=True)
    rows = [*graph.filter(named)["query_label"].to_list(), "<b>"]
    visible = graph.filter((pl.col("distance") <= radius) & pl.col("query_label").is_in(rows))
    assert whole == "15 pairs, 5 queries"
    assert filtered == f"{visible.height} pairs, {len(set(rows))} queries"


def _count(page: Path, root: Path) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={root / 'chromium'}"]
    done = subprocess.run(
        [str(_BROWSER), *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    result = re.search(r'<p id="count">(.*?)</p>', done.stdout)
    assert result is not None
    return result[1]
