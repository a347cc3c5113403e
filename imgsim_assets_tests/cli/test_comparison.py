"""The options of `imgsim match` and `imgsim graph` about what is compared."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from PIL import Image

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets_tests.support.catalogs import indexed, sha256_of, tiny
from imgsim_assets_tests.support.shell import THUMBNAIL, CommandResult, Shell

HOG = EncoderSettings(name="hog_color")


@pytest.fixture
def lists(shell: Shell) -> Shell:
    """Two lists with a placeholder; items of the left one have two images."""
    for number in (0, 1, 2, 5):
        shell.write(f"{number}.png", tiny(number))
    shell.write("soon.png", tiny(9))
    left = [f"l{number},{number}.png|soon.png" for number in range(3)]
    _write_list(shell, "left.csv", left)
    _write_list(shell, "right.csv", ["r0,0.png", "r1,5.png|1.png", "r2,soon.png"])
    return shell


def _write_list(shell: Shell, name: str, rows: Sequence[str]) -> None:
    shell.write(name, "\n".join(["id,url", *rows]) + "\n")


def _match(shell: Shell, *options: str) -> CommandResult:
    return shell.match("left.csv", "right.csv", "--separator", "|", "--threshold", "0.99", *options)


def test_images_of_more_items_than_max_shared_are_left_out_and_told(lists: Shell) -> None:
    every = _match(lists, "--mode", "all", "--json").json["matches"]
    result = _match(lists, "--max-shared", "2")
    document = _match(lists, "--max-shared", "2", "--json").json

    assert [match["right_id"] for match in every] == ["r0", "r2", "r1", "r2", "r2"]
    assert f"left out: image {sha256_of(tiny(9))} of 3 items of left.csv" in result.out
    assert "to compare them, set --max-shared 0" in result.out
    assert "2 matches of 3 x 3 items" in result.out
    assert document["left_out"] == {"shared": 3}
    assert [image["items"] for image in document["shared"]] == [3]


def test_placeholder_of_21_items_is_left_out_unless_max_shared_is_zero(shell: Shell) -> None:
    shell.write("soon.png", tiny(9))
    _write_list(shell, "left.csv", [f"l{n:02d},soon.png" for n in range(21)])
    _write_list(shell, "right.csv", [f"r{n:02d},soon.png" for n in range(20)])

    default = _match(shell, "--json").json
    allowed = _match(shell, "--max-shared", "0", "--json").json

    assert (len(default["matches"]), len(allowed["matches"])) == (0, 21)


def test_compare_first_looks_at_first_images_only(lists: Shell) -> None:
    result = _match(lists, "--compare", "first", "--json")

    assert [match["right_id"] for match in result.json["matches"]] == ["r0"]


def test_graph_with_other_comparison_is_a_variant(shell: Shell) -> None:
    indexed(shell.store, "left", {f"l{n}": [tiny(n), tiny(9)] for n in range(3)})
    every = shell("graph", "left", "-k", "1", "--json").json["edges"]
    result = shell("graph", "left", "-k", "1", "--max-shared", "2", "--json")

    assert {edge["src_image"] for edge in every} == {1}
    assert {edge["src_image"] for edge in result.json["edges"]} == {0}


def test_mean_best_without_a_threshold_is_refused_in_words_of_the_shell(shell: Shell) -> None:
    result = shell("graph", "left", "--compare", "mean_best")

    assert result.code == 2
    assert "--compare: mean_best needs a threshold, such as '--threshold recommended'" in result.err


def test_within_compares_items_of_one_value_and_names_an_unknown_column(shell: Shell) -> None:
    for name, brands in (("left", ["acme", "bolt"]), ("right", ["bolt", "acme"])):
        rows = [f"{name[0]}{n},{n}.png,{brand}" for n, brand in enumerate(brands)]
        shell.write(f"{name}.csv", "\n".join(["id,url,brand", *rows]) + "\n")
        shell.write(f"{brands.index('acme')}.png", tiny(brands.index("acme")))

    every = shell.match("left.csv", "right.csv", "--threshold", "-1", "--json").json["matches"]
    within = shell.match(
        "left.csv", "right.csv", "--threshold", "-1", "--within", "brand", "--json"
    )
    unknown = shell.match("left.csv", "right.csv", "--within", "brnad")

    assert [match["right_id"] for match in every] == ["r0", "r1"]
    assert [match["right_id"] for match in within.json["matches"]] == ["r1", "r0"]
    assert unknown.code == 1
    assert "has no column 'brnad'; name one of brand, url" in unknown.err


def test_ignore_leaves_out_listed_files_and_tells_how_many(lists: Shell) -> None:
    lists.write("ignore.csv", "path\nsoon.png\n1.png\n")

    result = _match(lists, "--ignore", "ignore.csv", "--json")
    told = _match(lists, "--ignore", "ignore.csv")

    assert [match["right_id"] for match in result.json["matches"]] == ["r0"]
    assert "left out: 6 images that --ignore names" in told.out


def test_max_shared_may_be_zero_but_not_negative(lists: Shell) -> None:
    for command in ("match", "groups"):
        result = lists(command, "left.csv", "right.csv", "--max-shared", "-1")

        assert result.code == 2
        assert "'--max-shared': -1 is not in the range x>=0" in result.err


def test_orientations_finds_a_turned_copy_and_tells_what_was_encoded(lists: Shell) -> None:
    body = io.BytesIO()
    turned = Image.open(io.BytesIO(tiny(2))).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(body, "PNG")
    lists.write("turned.png", body.getvalue())
    _write_list(lists, "right.csv", ["r,turned.png"])

    assert _match(lists).out.count("mirrored") == 0
    result = _match(lists, "--orientations")
    again = _match(lists, "--orientations", "--json").json
    _write_list(lists, "both.csv", ["a,2.png", "b,turned.png"])
    options = (*THUMBNAIL, "--orientations", "--threshold", "0.99", "--json")
    groups = lists("groups", "both.csv", *options).json

    assert "1 match of 3 x 1 item" in result.out
    assert "4 images encoded in seven other orientations" in result.out
    assert [match["orientation"] for match in again["matches"]] == ["mirrored_rotated_180"]
    assert again["matrix"][2] == {"left_id": "l2", "r": 1.0}
    (group,) = groups["groups"]
    assert [member["orientation"] for member in group["members"]] == [
        "upright",
        "mirrored_rotated_180",
    ]


def test_graph_over_orientations_is_a_variant_of_the_declared_one(shell: Shell) -> None:
    indexed(shell.store, "products", {"a": tiny(1), "b": tiny(2)}, HOG)

    upright = shell("graph", "products", "-k", "1")
    result = shell("graph", "products", "-k", "1", "--orientations")

    assert (upright.code, result.code) == (0, 0), result.err
    assert "orientation" in result.out
    assert len([name for name in shell.store.table_names() if "similarity_graph" in name]) == 2
