"""Images that most items of a list have: what the commands say of them, and the matrix."""

from __future__ import annotations

import pytest

from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell

SEVERAL = ("--url", "front,chart")
HOG_COLOR = ("--encoder", "hog_color")


@pytest.fixture
def shop(shell: Shell) -> Shell:
    """Six products and five items of a supplier, all with the same size chart behind the front."""
    shell.write("chart.jpg", jpeg(99))
    for name, first, count in (("products", 0, 6), ("supplier", 3, 5)):
        rows = [f"{name[0]}{n},{n}.jpg,chart.jpg" for n in range(first, first + count)]
        shell.write(f"{name}.csv", "\n".join(["id,front,chart", *rows]) + "\n")
        for n in range(first, first + count):
            shell.write(f"{n}.jpg", jpeg(n))
    return shell


def test_image_that_all_items_have_is_named_with_the_fix(shop: Shell) -> None:
    arguments = ("match", "products.csv", "supplier.csv", *SEVERAL, *HOG_COLOR)

    warned = shop(*arguments)
    document = shop(*arguments, "--json").json
    fixed = shop(*arguments, "--max-shared", "4")

    assert "warning: image 1 of item 'p0' is an image of 6 of 6 items of " in warned.out
    assert "image 1 of item 's3' is an image of 5 of 5 items of " in warned.out
    assert "set --max-shared 4" in warned.out
    assert [row["items"] for row in document["common"]] == [6, 5]
    assert {row["similarity"] for row in document["matches"]} == {1.0}
    assert "warning" not in fixed.out
    assert "left out: image" in fixed.out


def test_groups_and_graph_name_it_too(shop: Shell) -> None:
    grouped = shop("groups", "products.csv", *SEVERAL, *HOG_COLOR)
    (catalog,) = (each["name"] for each in shop("status", "--json").json["catalogs"])
    graph = shop("graph", catalog)

    for result in (grouped, graph):
        assert "warning: image 1 of item 'p0' is an image of 6 of 6 items" in result.out, result.err
        assert "set --max-shared 5" in result.out


def test_matrix_compares_what_the_result_compares(shop: Shell) -> None:
    shop.write("only_chart.csv", "id,front,chart\ns3,3.jpg,chart.jpg\ns9,,chart.jpg\n")
    arguments = (*SEVERAL, *HOG_COLOR, "--max-shared", "1", "--json")

    document = shop("match", "products.csv", "only_chart.csv", *arguments).json

    found = {row["left_id"]: (row["s3"], row["s9"]) for row in document["matrix"]}
    assert document["matches"][0]["left_id"] == "p3"
    assert found["p3"] == (1.0, None)
    assert all(similar < 0.9 for item, (similar, _) in found.items() if item != "p3")
    assert {missing for _, missing in found.values()} == {None}


def test_matrix_has_no_number_for_pairs_that_do_not_agree(shell: Shell) -> None:
    for name in ("left", "right"):
        rows = ("a,1.jpg,red", "b,2.jpg,blue", "c,1.jpg,")
        shell.write(f"{name}.csv", "\n".join(["id,url,brand", *rows]) + "\n")
    for n in (1, 2):
        shell.write(f"{n}.jpg", jpeg(n))

    result = shell("match", "left.csv", "right.csv", *HOG_COLOR, "--within", "brand", "--json")

    matrix = [tuple(row.values()) for row in result.json["matrix"]]
    assert matrix == [("a", 1.0, None, None), ("b", None, 1.0, None), ("c", None, None, None)]
