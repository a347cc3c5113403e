"""Decisions about matches, to and from files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.reviews.table import latest_decisions, read_reviews, reviews_table
from imgsim_assets.similarity.group_tables import is_groups, reviewed_groups
from imgsim_assets.similarity.matches import reviewed_name
from imgsim_assets_tests.support.shell import Shell


def _match(shell: Shell) -> str:
    """The name of a match table of two lists of three images."""
    shell.write_images(0, 1, 2)
    for name in ("left", "right"):
        rows = [f"{name}{number},{number}.jpg" for number in range(3)]
        shell.write(f"{name}.csv", "id,path\n" + "\n".join(rows))
    assert shell.match("left.csv", "right.csv").code == 0
    [table] = [name for name in shell.store.table_names() if name.startswith("matches/")]
    return reviewed_name(table)


def test_imported_decisions_are_exported_with_the_images_that_they_are_about(
    shell: Shell, tmp_path: Path
) -> None:
    name = _match(shell)
    shell.write(
        "verdicts.csv", "left_id,right_id,verdict\nleft0,right0,match\nleft0,right1,different\n"
    )

    imported = shell("review", "import", name, "verdicts.csv", "--reviewer", "ann")
    exported = shell("review", "export", name, "out.parquet")

    assert (imported.code, exported.code) == (0, 0), imported.err + exported.err
    assert "2 new decisions" in imported.out
    assert "2 decisions written to out.parquet (1 match, 1 different)" in exported.out
    rows = pl.read_parquet(shell.folder / "out.parquet").sort("right_id")
    assert rows["reviewer"].to_list() == ["ann", "ann"]
    assert rows["left_sha256"].n_unique() == 1
    assert rows["right_sha256"].n_unique() == 2
    assert rows["right_sha256"].null_count() == 0


def test_an_exported_file_imports_again_as_nothing_new(shell: Shell) -> None:
    name = _match(shell)
    shell.write("verdicts.csv", "left_id,right_id,verdict,note\nleft0,right0,match,the same\n")
    shell("review", "import", name, "verdicts.csv")
    shell("review", "export", name, "out.csv")

    again = shell("review", "import", name, "out.csv", "--json")

    assert again.code == 0
    assert (again.json["rows"], again.json["added"], again.json["version"]) == (1, 0, 1)


def test_a_verdict_that_is_edited_in_an_export_holds_also_when_it_is_edited_back(
    shell: Shell,
) -> None:
    name = _match(shell)
    shell.write("verdicts.csv", "left_id,right_id,verdict,reviewer\nleft0,right0,match,ann\n")
    shell("review", "import", name, "verdicts.csv")
    shell("review", "export", name, "out.csv")
    exported = (shell.folder / "out.csv").read_text()
    table = reviews_table(shell.store, name)

    for verdict in ("different", "match"):
        shell.write("out.csv", exported.replace(",match,", f",{verdict},"))
        counts = [shell("review", "import", name, "out.csv", "--json").json for _ in range(2)]

        assert [count["added"] for count in counts] == [1, 0]
        reviews = read_reviews(table, table.latest())
        assert latest_decisions(reviews)["verdict"].to_list() == [verdict]

    shell("review", "export", name, "out.csv")
    assert shell("review", "import", name, "out.csv", "--json").json["added"] == 0


def test_a_file_without_times_that_is_imported_again_decides_nothing_again(shell: Shell) -> None:
    name = _match(shell)
    shell.write("verdicts.csv", "left_id,right_id,verdict\nleft0,right0,match\n")

    counts = [shell("review", "import", name, "verdicts.csv", "--json").json for _ in range(2)]

    assert [count["added"] for count in counts] == [1, 0]


def test_a_verdict_can_be_edited_back_without_a_time(shell: Shell) -> None:
    name = _match(shell)
    for verdict in ("different", "match", "different"):
        shell.write("verdicts.csv", f"left_id,right_id,verdict\nleft0,right0,{verdict}\n")
        assert shell("review", "import", name, "verdicts.csv", "--json").json["added"] == 1

    table = reviews_table(shell.store, name)
    reviews = read_reviews(table, table.latest())
    assert latest_decisions(reviews)["verdict"].to_list() == ["different"]
    assert reviews["source"].to_list() == ["verdicts.csv"] * 3


def test_groups_of_files_honour_imported_decisions(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "id,url\na,1.jpg\nb,1.jpg\nc,2.jpg\n")
    arguments = ("groups", "list.csv", "--encoder", "hog_color", "--threshold", "0.999", "--json")
    before = shell(*arguments).json["groups"]
    [table] = [name for name in shell.store.table_names() if is_groups(name)]
    name = reviewed_groups(table)
    shell.write("verdicts.csv", "left_id,right_id,verdict\na,b,different\nc,a,match\n")

    imported = shell("review", "import", name, "verdicts.csv")
    exported = shell("review", "export", name, "out.csv")
    after = shell(*arguments).json["groups"]

    assert (imported.code, exported.code) == (0, 0), imported.err + exported.err
    assert [[member["id"] for member in group["members"]] for group in before] == [["a", "b"]]
    assert [[member["id"] for member in group["members"]] for group in after] == [["a", "c"]]
    assert [member["verdict"] for member in after[0]["members"]] == [None, "match"]
    assert "2 decisions written" in exported.out


def test_a_decision_about_an_unknown_item_is_left_out_and_told(shell: Shell) -> None:
    name = _match(shell)
    rows = "left0,right0,match\nleft0,nobody,match\n"
    shell.write("verdicts.csv", f"left_id,right_id,verdict\n{rows}")

    result = shell("review", "import", name, "verdicts.csv")

    assert result.code == 3
    assert "1 new decision (" in result.out
    assert (
        "1 about items that are not there, or have no image, were left out: right_id 'nobody' of"
        in result.out
    )
    table = reviews_table(shell.store, name)
    assert read_reviews(table, table.latest())["right_id"].to_list() == ["right0"]


def test_an_unknown_match_table_is_named_with_those_that_exist(shell: Shell) -> None:
    name = _match(shell)
    shell.write("verdicts.csv", "left_id,right_id,verdict\n")

    result = shell("review", "import", "other", "verdicts.csv")

    assert result.code == 1
    assert f"has no match table 'other'; it has {name}" in result.err


def test_the_next_match_honours_the_decisions(shell: Shell) -> None:
    name = _match(shell)
    rows = "left0,right0,different\nleft1,right2,match\n"
    shell.write("verdicts.csv", f"left_id,right_id,verdict\n{rows}")
    shell("review", "import", name, "verdicts.csv")

    shell.match("left.csv", "right.csv", "--threshold", "0.99", "--out", "out.tsv")
    assert "match" in shell.table("out.tsv")["verdict"].to_list()
    result = shell.match("left.csv", "right.csv", "--threshold", "0.99", "--json")

    pairs = {(row["left_id"], row["right_id"]) for row in result.json["matches"]}
    assert ("left0", "right0") not in pairs
    assert {("left1", "right2"), ("left2", "right2")} <= pairs
    verdicts = {row["left_id"]: row["verdict"] for row in result.json["matches"]}
    assert (verdicts["left1"], verdicts["left2"]) == ("match", None)
    assert shell("verify").code == 0


def test_verdicts_are_written_with_the_matches_once_people_have_decided(shell: Shell) -> None:
    name = _match(shell)
    shell.match("left.csv", "right.csv", "--out", "before.csv")
    shell.write("verdicts.csv", "left_id,right_id,verdict\nleft0,right0,match\n")
    shell("review", "import", name, "verdicts.csv")

    shell.match("left.csv", "right.csv", "--out", "after.csv")

    before, after = (pl.read_csv(shell.folder / f"{name}.csv") for name in ("before", "after"))
    assert "verdict" not in before.columns
    assert after["verdict"].to_list() == ["match", None, None]


def test_decisions_are_exported_to_known_kinds_of_files_only(shell: Shell) -> None:
    name = _match(shell)

    result = shell("review", "export", name, "all.xlsx")

    assert result.code == 2
    assert "all.xlsx ends in none of" in result.err


@pytest.mark.parametrize("mode", ["all", "best", "mutual"])
def test_decisions_about_a_list_matched_with_itself_hold_in_both_directions(
    shell: Shell, mode: str
) -> None:
    shell.write_images(1, 2, 3)
    shell.write("list.csv", "id,url\na,1.jpg\nb,1.jpg\nc,2.jpg\nd,3.jpg\n")
    shell.write("verdicts.csv", "left_id,right_id,verdict\na,b,different\nd,c,match\n")
    arguments = ("list.csv", "list.csv", "--mode", mode, "--threshold", "0.999", "--out", "r.tsv")
    shell.match(*arguments)
    [table] = [name for name in shell.store.table_names() if name.startswith("matches/")]
    shell("review", "import", reviewed_name(table), "verdicts.csv")
    shell.match(*arguments)

    assert shell.table("r.tsv").select("left_id", "right_id").rows() == [("c", "d")]
