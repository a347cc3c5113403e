from __future__ import annotations

from imgsim_assets import ImageSimilarityModel
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.shell import FACTORY, Shell
from imgsim_assets_tests.support.web import Web


def test_query_accepts_a_catalog_or_a_saved_model(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    shell.write("one.png", tiny(1))
    shell.write("two.png", tiny(2))
    model = ImageSimilarityModel.create("products", progress=False)
    model.save("products.model")

    result = shell("query", *FACTORY, "products", "one.png", "two.png", "-k", "2", "--json")
    saved = shell("query", *FACTORY, "products.model", "one.png", "two.png", "-k", "2", "--json")
    shown = shell("query", *FACTORY, "products", "one.png", "-k", "1")
    written = shell(
        "query", *FACTORY, "products", "one.png", "--orientations", "--out", "found.tsv"
    )

    assert result.json == saved.json
    first = [row for row in result.json if row["rank"] == 1]
    assert [(row["query_label"], row["reference_label"]) for row in first] == [
        ("one.png", "p1"),
        ("two.png", "p2"),
    ]
    assert first[0]["distance"] == 0.0
    assert "p1" in shown.out
    assert written.code == 0
    assert shell.table("found.tsv")["orientation"][0] == "upright"


def test_query_by_an_item_with_several_images(shell: Shell) -> None:
    indexed(shell.store, "products", {"a": [tiny(1), tiny(2)], "b": tiny(3), "c": tiny(4)})
    for seed in (2, 4, 9):
        shell.write(f"{seed}.png", tiny(seed))
    shell.write("4,2.png,9.png", tiny(3))

    flag = shell("query", *FACTORY, "products", "9.png", "2.png", "--one-item", "-k", "2", "--json")
    cells = ["9.png,2.png", '["4.png", "9.png"]', "4,2.png,9.png"]
    cell = shell("query", *FACTORY, "products", *cells, "-k", "1", "--json", "--html", "found.html")
    shown = shell("query", *FACTORY, "products", "2.png", "-k", "3")
    text = shell("query", *FACTORY, "products", "--text", "shoe", "--one-item")

    assert [row["rank"] for row in flag.json] == [1, 2]
    assert flag.json[0] == {
        "query_label": "item",
        "query_image": 1,
        "reference_label": "a",
        "reference_image": 1,
        "distance": 0.0,
        "rank": 1,
    }
    assert [
        (row["query_label"], row["query_image"], row["reference_label"], row["reference_image"])
        for row in cell.json
    ] == [(cells[0], 1, "a", 1), (cells[1], 0, "c", 0), (cells[2], 0, "b", 0)]
    assert None not in GalleryPage.read(shell.folder / "found.html").column("left thumbnail")
    assert "reference_image" in shown.out
    assert "query_image" not in shown.out
    assert text.code == 2
    assert "--one-item" in text.err


def test_failed_query_reports_the_reason(shell: Shell) -> None:
    indexed(shell.store, "products", {"p": tiny(1)})

    missing = shell("query", *FACTORY, "products", "gone.jpg")
    unknown = shell("query", "shoes", "gone.jpg")
    shell.write("one.png", tiny(1))
    partial = shell("query", *FACTORY, "products", "one.png", "gone.jpg", "--quiet")

    assert missing.code == unknown.code == 1
    assert "gone.jpg: missing_file" in missing.err
    assert "imgsim: IMAGE: " in missing.err
    assert "imgsim: CATALOG: 'shoes' is neither a folder nor a catalog" in unknown.err
    assert "or set '--store URL'" in unknown.err
    assert partial.err == (
        "imgsim: IMAGE: 1 of 2 images cannot be used "
        "(gone.jpg: missing_file, there is no file 'gone.jpg'); they are omitted\n"
    )


def test_query_writes_an_html_gallery(shell: Shell, web: Web) -> None:
    web.pages["/1.png"] = tiny(1)
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    shell.write("two.png", tiny(2))

    result = shell(
        "query", "products", "two.png", web.url("/1.png"), "--html", "found.html",
        "--allowed-host", web.address, *FACTORY,
    )  # fmt: skip

    assert result.code == 0, result.err
    page = GalleryPage.read(shell.folder / "found.html")
    assert set(page.column("left_id")) == {"two.png", web.url("/1.png")}
    assert None not in [*page.column("left thumbnail"), *page.column("right thumbnail")]
