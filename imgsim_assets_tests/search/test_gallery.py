from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

import imgsim_assets
from imgsim_assets import ImageSimilarityModel, load_images
from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny
from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.model_datasets import create_model, write_image_folder


@pytest.fixture
def matched(store: Store) -> Store:
    """A store with two catalogs and the match table `pair` of them."""
    indexed(store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3)})
    indexed(store, "suppliers", {"s": [tiny(9), tiny(2)], "t": tiny(3)})
    settings = MatchSettings(threshold=0.9, mode="all")
    MatchStage(store, "pair", settings, left="products", right="suppliers").run()
    return store


@pytest.fixture
def model(tmp_path: Path) -> ImageSimilarityModel:
    frame = load_images(write_image_folder(tmp_path / "pics", range(5))).with_columns(
        name=pl.Series(["a", "b", "</script><script>alert(1)</script>", "d", "<b>"])
    )
    return ImageSimilarityModel.create(
        frame, label="name", feature="image", encoder="hog_color", progress=False
    )


def test_gallery_shows_queries_with_their_neighbors(
    model: ImageSimilarityModel, tmp_path: Path
) -> None:
    queries = pl.DataFrame({"id": [7, 8], "image": [jpeg(1), jpeg(40)]})
    result = model.query(queries, label="id", k=3, progress=False)

    page = GalleryPage.read(model.explore(tmp_path / "g.html", result, queries, label="id"))

    assert page.column("left_id") == ["7"] * 3 + ["8"] * 3
    assert page.column("right_id") == result["reference_label"].to_list()
    first = page.rows[0]
    assert first["distance"] == 0.0
    assert first["left thumbnail"] == first["right thumbnail"]  # equal bytes, embedded once
    assert page.rows[3]["left thumbnail"] != first["left thumbnail"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in page.images)


def test_gallery_is_self_contained_and_escapes_labels(
    model: ImageSimilarityModel, tmp_path: Path
) -> None:
    text = GalleryPage.read(model.explore(tmp_path / "g.html")).text

    assert set(re.findall(r"https?://[^\"' `]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count("<script") == text.count("</script>") == 3
    assert "<script>alert" not in text


def test_explore_requires_the_queried_dataset(model: ImageSimilarityModel, tmp_path: Path) -> None:
    result = model.query(make_image(3), progress=False)

    with pytest.raises(SettingsError, match="queries: give the dataset that was queried"):
        model.explore(tmp_path / "g.html", result)
    with pytest.raises(SettingsError, match="result: it has no column 'distance'"):
        model.explore(tmp_path / "g.html", result.drop("distance"), make_image(3))


def test_missing_image_has_no_thumbnail(model: ImageSimilarityModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = imgsim_assets.load_model(tmp_path / "m")

    page = GalleryPage.read(loaded.explore(tmp_path / "g.html"))

    assert set(page.column("left thumbnail")) == {None}
    assert page.images == []


def test_explore_shows_a_frame_of_images_with_its_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"name": ["x", "y"], "score": [0.123456, float("nan")], "image": [jpeg(1), b"broken"]}
    )

    page = GalleryPage.read(
        imgsim_assets.explore(frame, tmp_path / "wall.html", label="name", title="Mine <3 {{ x }}")
    )

    assert page.column("id") == ["x", "y"]
    assert page.column("item") == [{"score": 0.123456}, {"score": "nan"}]
    assert page.column("item thumbnail") == [0, None]
    assert "<title>Mine &lt;3 {{ x }}</title>" in page.text


def test_explore_shows_a_folder_with_its_paths(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "pics", range(2))

    page = GalleryPage.read(imgsim_assets.explore(str(folder), tmp_path / "wall.html"))

    assert [Path(row["item"]["path"]).name for row in page.rows] == sorted(
        path.name for path in folder.iterdir()
    )
    assert None not in page.column("item thumbnail")


def test_gallery_of_a_catalog_shows_its_images(store: Store, tmp_path: Path) -> None:
    indexed(store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3), "gone": None})

    page = GalleryPage.read(imgsim_assets.explore("products", tmp_path / "wall.html", store=store))

    assert [(row["id"], row["image"], row["status"]) for row in page.rows] == [
        ("a", 0, "ok"),
        ("a", 1, "ok"),
        ("b", 0, "ok"),
        ("gone", 0, "http_404"),
    ]
    assert page.column("item thumbnail") == [0, 1, 2, None]
    assert "4 images of 3 items" in page.text


@pytest.mark.parametrize("rows", ["whole", "filtered", "lazy"])
def test_gallery_of_a_match_table_shows_the_images_that_matched(
    rows: str, matched: Store, tmp_path: Path
) -> None:
    lazy = imgsim_assets.read_table("matches/pair", store=matched)
    kept = pl.col("left_id") == "a"
    frame = {"whole": lazy.collect(), "filtered": lazy.filter(kept).collect(), "lazy": lazy}[rows]

    page = GalleryPage.read(imgsim_assets.explore(frame, tmp_path / "m.html", store=matched))

    names = ("left_id", "left_image", "right_id", "right_image", "similarity")
    pairs = [tuple(row[name] for name in names) for row in page.rows]
    assert pairs == [("a", 1, "s", 1, 1.0), ("b", 0, "t", 0, 1.0)][: len(pairs)]
    assert len(pairs) == (1 if rows == "filtered" else 2)
    assert page.column("left thumbnail") == page.column("right thumbnail")


def test_columns_that_were_joined_to_a_match_table_are_shown_with_their_items(
    matched: Store, tmp_path: Path
) -> None:
    matches = imgsim_assets.read_table("matches/pair", store=matched).collect()
    joined = matches.with_columns(
        left_title=pl.Series(["red", "blue"]),
        right_price=pl.Series([1.5, None]),
        gap=pl.Series([1, 2]),
    )

    page = GalleryPage.read(imgsim_assets.explore(joined, tmp_path / "m.html", store=matched))

    assert page.column("left") == [{"title": "red"}, {"title": "blue"}]
    assert page.column("right") == [{"price": 1.5}, {"price": None}]
    assert page.column("pair") == [{"gap": 1}, {"gap": 2}]


def test_every_table_of_a_store_is_explored_by_its_name(matched: Store, tmp_path: Path) -> None:
    GraphStage(matched, "products", GraphSettings(k=1)).run()
    GroupStage(matched, "products", GroupSettings(threshold=0.0)).run()
    layouts = {
        "matches/pair": "pairs",
        "products/similarity_graph": "pairs",
        "products/duplicate_groups": "groups",
        "products/images": "items",
        "products": "items",
    }

    for name, layout in layouts.items():
        page = GalleryPage.read(imgsim_assets.explore(name, tmp_path / "p.html", store=matched))
        assert page.data["layout"] == layout, name
        assert page.images, name
        if "/" in name:
            frame = imgsim_assets.read_table(name, store=matched)
            shown = GalleryPage.read(
                imgsim_assets.explore(frame, tmp_path / "f.html", store=matched)
            )
            assert (shown.data["layout"], shown.images) == (layout, page.images), name


def test_explore_names_what_it_does_not_know(
    matched: Store, model: ImageSimilarityModel, tmp_path: Path
) -> None:
    def explore(dataset: object) -> None:
        imgsim_assets.explore(dataset, tmp_path / "p.html", store=matched)

    with pytest.raises(SettingsError, match="'prodcts' is neither a folder nor a catalog"):
        explore("prodcts")
    with pytest.raises(SettingsError, match=r"none of 1 image can be read \(Products: missing_"):
        explore("Products")
    with pytest.raises(SettingsError, match="dataset is an empty text"):
        explore("")
    with pytest.raises(SettingsError, match="none of 2 images can be read"):
        explore([b"broken", "nowhere.jpg"])
    with pytest.raises(StoreError, match=r"has no table 'matches/pear'; it has .*matches/pair"):
        explore("matches/pear")
    with pytest.raises(SettingsError, match="products/index names no images"):
        explore("products/index")
    with pytest.raises(SettingsError, match=r"by model\.explore"):
        explore(model)
    with pytest.raises(SettingsError, match="these are vectors"):
        explore([[0.0, 1.0]])
    with pytest.raises(SettingsError, match="limit is 0"):
        imgsim_assets.explore("products", tmp_path / "p.html", limit=0, store=matched)
    assert not list(tmp_path.glob("p.html*"))


def test_gallery_of_a_model_shows_the_image_that_matched_and_names_it(tmp_path: Path) -> None:
    references = pl.DataFrame(
        {"id": ["a", "b"], "image": [[jpeg(1), jpeg(2)], [jpeg(3)]]},
    )
    queries = pl.DataFrame({"id": [7], "image": [[jpeg(9), jpeg(2), b"broken"]]})
    model = create_model(references, label="id")
    with pytest.warns(UserWarning, match="1 of 3 images"):
        result = model.query(queries, label="id", k=2, progress=False)

    page = GalleryPage.read(model.explore(tmp_path / "g.html", result, queries, label="id"))

    nearest = page.rows[0]
    assert (nearest["left_image"], nearest["right_id"], nearest["right_image"]) == (1, "a", 1)
    assert nearest["left thumbnail"] == nearest["right thumbnail"]


def test_columns_of_catalogs_and_of_a_queried_frame_are_shown(store: Store, tmp_path: Path) -> None:
    indexed(store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3)})
    items = pl.DataFrame(
        {"id": ["a", "b"], "url": ["/a0", "/b0"], "other_urls": [["/a1"], []], "title": ["A", "B"]}
    )
    table = store.table("products/items", key="id")
    table.commit(lambda _: PendingCommit([table.write_rows(items)]))
    model = create_model("products", store=store, factory=THUMBNAIL.factory)
    queries = pl.DataFrame({"id": [7], "note": ["<new>"], "image": [tiny(2)]})
    result = model.query(queries, label="id", k=1, progress=False)

    page = GalleryPage.read(model.explore(tmp_path / "q.html", result, queries, label="id"))
    own = GalleryPage.read(model.explore(tmp_path / "o.html", k=1))

    assert page.column("left") == [{"note": "<new>"}]
    assert page.column("right") == [{"url": "/a1", "title": "A"}]
    assert [row["left"]["title"] for row in own.rows] == ["A", "B"]
    assert [row["right"]["title"] for row in own.rows] == ["B", "A"]


def test_labels_that_are_numbers_or_look_like_them_find_their_images(
    store: Store, tmp_path: Path
) -> None:
    indexed(store, "products", {"007": tiny(1), "7": tiny(2), "1e3": tiny(3)})
    model = ImageSimilarityModel.create("products", progress=False, store=store)
    queries = pl.DataFrame({"id": [7], "image": [tiny(1)]})
    result = model.query("products", k=1, progress=False)

    own = GalleryPage.read(model.explore(tmp_path / "o.html", result, "products"))
    page = GalleryPage.read(
        model.explore(
            tmp_path / "g.html", result.filter(pl.col("query_label") == "7"), queries, label="id"
        )
    )

    assert own.column("left_id") == own.column("right_id") == ["007", "1e3", "7"]
    assert own.column("left thumbnail") == own.column("right thumbnail") == [0, 1, 2]
    assert page.column("left_id") == ["7"]
    assert page.rows[0]["left thumbnail"] != page.rows[0]["right thumbnail"]


def test_long_gallery_is_cut_at_its_limit_and_says_so(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image": [jpeg(1)] * 5})

    page = GalleryPage.read(imgsim_assets.explore(frame, tmp_path / "wall.html", limit=3))

    assert "5 images, the first 3 shown" in page.text
    assert len(page.rows) == 3


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
