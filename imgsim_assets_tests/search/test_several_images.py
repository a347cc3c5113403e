"""Models of items with several images: created, queried, changed, saved and exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
import pytest
from PIL import Image

import imgsim_assets
from imgsim_assets import ImageSimilarityModel, extract_features, load_model
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.encoders import COUNTER, encoded_count
from imgsim_assets_tests.support.images import jpeg, make_image
from imgsim_assets_tests.support.model_datasets import (
    create_model,
    query_model,
    write_image_folder,
)
from imgsim_assets_tests.support.tables import resealed
from imgsim_assets_tests.support.web import Web

NUMBERED = ["query_label", "query_image", "reference_label", "reference_image", "distance", "rank"]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return sorted(map(str, write_image_folder(tmp_path / "images", range(8)).iterdir()))


@pytest.fixture
def frame(paths: list[str]) -> pl.DataFrame:
    """Three items of three, one and two images."""
    return pl.DataFrame({"sku": ["a", "b", "c"], "photos": [paths[:3], paths[3:4], paths[4:6]]})


# ---- datasets -----------------------------------------------------------------------


def test_every_form_of_lists_gives_the_same_model(frame: pl.DataFrame) -> None:
    lists = frame["photos"].to_list()
    opened = [[Image.open(path) for path in row] for row in lists]
    forms: list[Any] = [
        frame,
        frame.lazy(),
        frame.to_dicts(),
        pd.DataFrame({"sku": frame["sku"].to_list(), "photos": lists}),
        pd.DataFrame({"sku": frame["sku"].to_list(), "photos": pd.Series(map(np.array, lists))}),
        _ArrowTable(frame),
        frame.with_columns(
            pl.Series("photos", [[Path(path).read_bytes() for path in row] for row in lists])
        ),
        pd.DataFrame({"sku": frame["sku"].to_list(), "photos": opened}),
    ]
    expected = create_model(frame, label="sku")

    assert expected.entries.rows() == [
        ("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1),
    ]  # fmt: skip
    assert len(expected) == 3
    for form in forms:
        model = create_model(form, label="sku")
        assert model.entries.equals(expected.entries)
        assert (model.vectors == expected.vectors).all()
    arrays = [[np.asarray(image) for image in row] for row in opened]
    for plain in (lists, tuple(map(tuple, lists)), opened, arrays):
        model = create_model(plain)
        assert model.entries["image"].equals(expected.entries["image"])
        assert (model.vectors == expected.vectors).all()


class _ArrowTable:
    """A table of an Arrow library: Polars reads it by its C stream."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


def test_empty_entries_and_repeats_are_passed_over_before_numbering(paths: list[str]) -> None:
    model = create_model([[None, paths[0], "", paths[0], paths[1]], paths[2]])

    assert model.entries.rows() == [(0, 0), (0, 1), (1, 0)]
    assert model.failures.height == 0


def test_unusable_images_are_omitted_and_items_with_their_last_image(paths: list[str]) -> None:
    dataset = [[paths[0], "gone.jpg", paths[1]], ["gone.jpg", b"broken"], [], None, [paths[2]]]

    with pytest.warns(UserWarning, match="omitted") as caught:
        model = create_model(dataset)

    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("dataset: 5 of 8 images cannot be used (gone.jpg: missing_file")
    assert "dataset row 1 image 1 (label 1)" in message
    assert message.endswith("they are omitted, and 3 of 5 items without another image")
    assert model.entries.rows() == [(0, 0), (0, 2), (4, 0)]
    assert model.failures.select("label", "image", "status").rows() == [
        ("0", 1, "missing_file"),
        ("1", 0, "missing_file"),
        ("1", 1, "not_image"),
        ("2", 0, "no_image"),
        ("3", 0, "no_image"),
    ]
    with pytest.raises(SettingsError, match="5 of 8 images cannot be used"):
        create_model(dataset, ignore_failure=False)
    with pytest.raises(SettingsError, match=r"2 of 2 images cannot be used .*one valid image"):
        create_model([["gone.jpg", "lost.jpg"]])


def test_text_is_read_as_a_catalog_reads_it(paths: list[str]) -> None:
    cells = [f'["{paths[0]}", null, "{paths[1]}"]', f"{paths[2]}|{paths[3]}", paths[4]]

    for dataset in (cells, pl.DataFrame({"photos": cells})):
        assert create_model(dataset).entries.rows() == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_arrays_of_one_length_are_lists_too(paths: list[str]) -> None:
    photos = pl.Series([[paths[0], paths[1]], [paths[2], None]], dtype=pl.Array(pl.String, 2))

    assert create_model(pl.DataFrame({"photos": photos})).entries.rows() == [(0, 0), (0, 1), (1, 0)]


def test_column_of_lists_is_recognized_by_its_entries(paths: list[str]) -> None:
    frame = pl.DataFrame(
        {"name": ["x", "y"], "tags": [["red"], ["blue", "new"]], "media": [paths[:2], paths[2:3]]}
    )

    assert len(create_model(frame, label="name").entries) == 3
    unclear = frame.select("name", "tags", sizes="tags")
    with pytest.raises(SettingsError, match=r"feature: no column .* one of 'name', 'tags', 'siz"):
        create_model(unclear, label="name")


def test_urls_of_all_items_are_fetched_once(web: Web) -> None:
    for name in "abc":
        web.pages[f"/{name}.jpg"] = jpeg(ord(name))
    urls = [web.url(f"/{name}.jpg") for name in "abc"]

    model = create_model(
        [[urls[0], urls[1]], [urls[1], urls[2]]],
        download=DownloadSettings(allowed_hosts=(web.address,)),
    )

    assert model.entries.rows() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert web.total_gets == 3


def test_features_of_lists_give_the_same_model(frame: pl.DataFrame) -> None:
    with_hole = frame.with_columns(
        pl.concat_list("photos", pl.lit(["gone.jpg"], pl.List(pl.String)))
    )

    with pytest.warns(UserWarning, match="3 of 9 images cannot be used"):
        features = extract_features(with_hole, "hog_color", feature="photos", progress=False)
    with pytest.warns(UserWarning, match="row 0: no_vector"):
        model = create_model(frame.with_columns(features), label="sku", feature="features")

    assert features.dtype == pl.List(pl.Array(pl.Float32, 772))
    assert features.list.len().to_list() == [4, 2, 3]
    assert model.entries.equals(create_model(frame, label="sku").entries)
    assert query_model(model, make_image(4)).equals(
        query_model(create_model(frame, label="sku"), make_image(4))
    )


# ---- queries ------------------------------------------------------------------------


def test_query_names_the_nearest_images(frame: pl.DataFrame, paths: list[str]) -> None:
    model = create_model(frame, label="sku")

    one = query_model(model, paths[2], k=2)
    item = query_model(model, [[paths[7], paths[5], paths[1]], [paths[3]]], k=3)

    assert one.columns == [name for name in NUMBERED if name != "query_image"]
    assert one.row(0) == (0, "a", 2, 0.0, 1)
    assert one["rank"].to_list() == [1, 2]
    assert item.columns == NUMBERED
    assert item.schema["query_image"] == item.schema["reference_image"] == pl.Int32
    # Both at distance 0: the item that was added first is first.
    assert item.head(2).rows() == [(0, 2, "a", 1, 0.0, 1), (0, 1, "c", 1, 0.0, 2)]
    assert item.filter(query_label=1)["reference_label"][0] == "b"
    assert item.group_by("query_label").len()["len"].to_list() == [3, 3]


def test_single_images_have_the_columns_of_today(paths: list[str]) -> None:
    lists = create_model([[path] for path in paths])
    single = create_model(paths)

    result = query_model(lists, [[path] for path in paths], k=3)

    assert result.columns == ["query_label", "reference_label", "distance", "rank"]
    assert result.equals(query_model(single, paths, k=3))
    assert lists.similarity_graph(k=2).edges.equals(single.similarity_graph(k=2).edges)


def test_item_is_found_in_any_orientation_of_any_image(
    frame: pl.DataFrame, paths: list[str]
) -> None:
    model = create_model(frame, label="sku")
    turned = imgsim_assets.show(paths[5]).rotate(90, expand=True)

    result = query_model(model, [[paths[7], turned]], k=1, orientations=True)

    row = result.row(0, named=True)
    assert (row["query_image"], row["reference_label"], row["reference_image"]) == (1, "c", 1)
    assert row["orientation"] == "rotated_270"


def test_graph_names_images_and_networkx_has_them(frame: pl.DataFrame) -> None:
    graph = create_model(frame, label="sku").similarity_graph(k=1)

    assert graph.edges.columns == [
        "__src_id", "__src_image", "__dst_id", "__dst_image", "distance", "rank",
    ]  # fmt: skip
    assert graph.vertices["__id"].to_list() == ["a", "b", "c"]
    edge = graph.edges.row(0, named=True)
    drawn = graph.to_networkx()[edge["__src_id"]][edge["__dst_id"]]
    assert drawn == {
        "distance": edge["distance"],
        "rank": 1,
        "src_image": edge["__src_image"],
        "dst_image": edge["__dst_image"],
    }


def test_first_images_alone_are_compared_on_request(paths: list[str]) -> None:
    items = [["gone.jpg", paths[0], paths[1]], [paths[2], paths[3]]]
    with pytest.warns(UserWarning, match="1 of 5"):
        model = create_model(items)

    found = query_model(model, [[paths[1], paths[2]]], k=2, compare="first")
    single = query_model(create_model([paths[0], paths[2]]), paths[1], k=2)

    assert found["distance"].to_list() == single["distance"].to_list()
    assert found["reference_label"].to_list() == single["reference_label"].to_list()
    by_label = found.sort("reference_label")
    assert by_label.select("query_image", "reference_image").rows() == [(0, 1), (0, 0)]


def test_mean_of_best_images_needs_a_radius_and_cosines(frame: pl.DataFrame) -> None:
    model = create_model(frame, label="sku")

    with pytest.raises(SettingsError, match="compare: mean_best needs a radius"):
        query_model(model, frame, compare="mean_best")
    with pytest.raises(SettingsError, match="compare is 'all'; use 'any', 'first' or 'mean_best'"):
        query_model(model, frame, compare="all")
    with pytest.raises(SettingsError, match="mean_best is not defined over orientations"):
        query_model(model, frame, compare="mean_best", radius=1, orientations=True)
    with pytest.raises(SettingsError, match="not of length 1; create the model with metric"):
        query_model(create_model([[3.0, 4.0]]), [[1.0, 2.0]], compare="mean_best", radius=9)


# ---- changes ------------------------------------------------------------------------


def test_add_encodes_only_new_images_and_remove_takes_all_of_an_item(
    frame: pl.DataFrame, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "encoded"
    monkeypatch.setenv(COUNTER, str(counter))
    model = create_model(frame, label="sku", encoder=THUMBNAIL)

    more = pl.DataFrame({"sku": ["d"], "photos": [[paths[6], paths[0]]]})
    model.add(more, label="sku", progress=False)
    model.remove(["a"])

    assert encoded_count(counter) == 7
    rest = pl.concat([frame.tail(2), more])
    fresh = create_model(rest, label="sku", encoder=THUMBNAIL)
    assert model.entries.equals(fresh.entries)
    assert query_model(model, frame, label="sku").equals(query_model(fresh, frame, label="sku"))


def test_saved_model_keeps_the_numbers_of_images(frame: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of"):
        model = create_model([["gone.jpg", *frame["photos"][0]], [*frame["photos"][1]]])
    model.save(tmp_path / "m")

    loaded = load_model(tmp_path / "m")

    assert loaded.entries.rows() == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert loaded.failures.rows() == model.failures.rows()
    assert query_model(loaded, frame, label="sku").equals(query_model(model, frame, label="sku"))
    assert loaded.summary("dict") == model.summary("dict")
    facts = loaded.summary("dict")
    assert (facts["num_examples"], facts["num_images"], facts["num_failures"]) == (2, 4, 1)


def test_model_of_the_former_format_has_one_image_per_item(
    paths: list[str], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="1 of"):
        model = create_model([*paths[:3], "gone.jpg"])
    model.save(tmp_path / "m")
    references = tmp_path / "m" / "references.parquet"
    pl.read_parquet(references).drop("image").write_parquet(references)
    document = json.loads((tmp_path / "m" / "model.json").read_bytes())
    for failure in document["failures"]:
        del failure["image"]
    document["sha256"] = hashlib.sha256(references.read_bytes()).hexdigest()
    (tmp_path / "m" / "model.json").write_bytes(resealed({**document, "format": 3}))

    loaded = load_model(tmp_path / "m")

    assert loaded.entries.equals(model.entries)
    assert loaded.failures.equals(model.failures)
    assert query_model(loaded, paths[1]).equals(query_model(model, paths[1]))


def test_exported_graph_finds_items_and_names_their_images(
    frame: pl.DataFrame, paths: list[str], tmp_path: Path
) -> None:
    model = create_model(frame, label="sku")

    parity = model.export_onnx(tmp_path / "m.onnx", k=3)

    assert parity.labels == 1.0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [output.name for output in session.get_outputs()] == [
        "label", "distance", "image_number",
    ]  # fmt: skip
    shown = imgsim_assets.show(paths[5])
    labels, distances, numbers = session.run(None, {"image": model.encoder.prepare(shown)[None]})
    expected = query_model(model, paths[5], k=3)
    assert labels[0].tolist() == expected["reference_label"].to_list()
    assert numbers[0].tolist() == expected["reference_image"].to_list()
    assert distances[0] == pytest.approx(expected["distance"].to_list(), abs=1e-4)


def test_model_says_how_many_images_its_items_have(frame: pl.DataFrame, paths: list[str]) -> None:
    assert repr(create_model(frame, label="sku")) == (
        "ImageSimilarityModel(3 items, 6 images, hog_color, euclidean)"
    )
    assert repr(create_model(paths)) == "ImageSimilarityModel(8 items, hog_color, euclidean)"
    assert isinstance(create_model(paths), ImageSimilarityModel)
