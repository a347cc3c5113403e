"""Text of a list that attacks a spreadsheet or a terminal."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

import imgsim_assets.cli
from imgsim_assets.cli.spreadsheet import for_spreadsheet, neutralized
from imgsim_assets_tests.support.shell import Shell

_FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    '=HYPERLINK("http://127.0.0.1/","click")',
    "\t=1",
    "\r=1",
    "  =1",
    "\uff1d1",
    "\ufeff=1",
]
_TEXTS = ["a=b", "-5", "+49170", "1e-5", "-1,5", "shoe - red", "'quoted", "", "Müller"]


@pytest.mark.parametrize("text", _FORMULAS)
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(text: str) -> None:
    assert neutralized(text).startswith("'")
    assert re.sub(r"\s", "", neutralized(text)[1:]) == re.sub(r"\s", "", text)


@pytest.mark.parametrize("text", _TEXTS)
def test_other_text_and_numbers_stay(text: str) -> None:
    assert neutralized(text) == text


def test_names_of_columns_and_nulls_of_a_frame() -> None:
    frame = pl.DataFrame({"=id": ["=1", None], "n": [-1, 2], "t": ["a\x1b[31m", "b\x9b\r\nc"]})

    rows = for_spreadsheet(frame)

    assert rows.columns == ["'=id", "n", "t"]
    assert rows.rows() == [("'=1", -1, "a\ufffd[31m"), (None, 2, "b\ufffd\nc")]


@pytest.fixture
def hostile(shell: Shell) -> Shell:
    """A shell with a list whose cells attack what shows them."""
    shell.write_images(0, 1)
    with (shell.folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "note", "url"])
        writer.writerow(["=1+1", "\x1b]0;title\x07\x1b[31mred", "-2+3", "0.jpg"])
        writer.writerow(["@SUM(1)", "\x9b2J\u202e", "<script>", "1.jpg"])
    # A list that is matched with itself has no matches of an item with itself.
    shutil.copy(shell.folder / "list.csv", shell.folder / "same.csv")
    return shell


_MATCH = (
    "match",
    "list.csv",
    "same.csv",
    "--encoder",
    "hog_color",
    "--columns",
    "id,title,note,url",
)


@pytest.mark.parametrize("name", ["out.tsv", "out.csv"])
def test_written_text_is_neutralized_unless_raw(hostile: Shell, name: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    hostile(*_MATCH, "--out", name)
    with (hostile.folder / name).open(newline="") as file:
        rows = list(csv.reader(file, delimiter=separator))
    hostile(*_MATCH, "--out", name, "--raw")
    raw = (hostile.folder / name).read_text()

    assert {row[0] for row in rows[1:]} == {"'=1+1", "'@SUM(1)"}
    assert "'-2+3" in {row[2] for row in rows[1:]}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", "".join(map("".join, rows)))
    assert "=1+1" in raw
    assert "'" not in raw
    assert "\x1b]0;title\x07" in raw


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_parquet_and_json_keep_every_character(hostile: Shell, name: str) -> None:
    hostile(*_MATCH, "--out", name)
    path = hostile.folder / name
    rows = pl.read_parquet(path) if name.endswith("parquet") else pl.read_ndjson(path)

    assert set(rows["left_id"]) == {"=1+1", "@SUM(1)"}
    assert "\x1b]0;title\x07\x1b[31mred" in rows["left_title"]


@pytest.mark.parametrize("options", [(), ("--json",), ("--out", "-"), ("--matrix",)])
def test_no_control_character_reaches_a_terminal(hostile: Shell, options: tuple[str, ...]) -> None:
    result = hostile(*_MATCH, *options)

    shown = result.out + result.err
    assert "SUM(1)" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    if options == ("--json",):
        titles = {row["left_title"] for row in json.loads(result.out)["matches"]}
        assert titles == {"\x1b]0;title\x07\x1b[31mred", "\x9b2J\u202e"}


def test_names_in_messages_are_printable(shell: Shell) -> None:
    results = [
        shell("query", "\x1b[31mno such", "x"),
        shell("\x1b[31mno-such-command"),
        shell("match", "a\x1b[31m.csv", "b.csv"),
        shell("graph", "products", "--out", "x\x1b.tsv", "--nope\x1b"),
    ]

    assert all(result.code for result in results)
    assert not any("\x1b" in result.out + result.err for result in results)


def test_a_list_of_images_is_neutralized_unless_raw(shell: Shell) -> None:
    shell.write("photos/=1+1.jpg", b"\xff\xd8\xff")

    shell("list-images", "photos", "--out", "list.csv")
    neutral = (shell.folder / "list.csv").read_text()
    shell("list-images", "photos", "--out", "list.csv", "--raw")

    assert "'=1+1.jpg," in neutral
    assert "\n=1+1.jpg," in (shell.folder / "list.csv").read_text()


def test_commands_print_at_one_place() -> None:
    folder = Path(imgsim_assets.cli.__file__).parent
    printing = [
        path.name
        for path in folder.glob("*.py")
        if re.search(r"click\.(echo|secho)\(|\bprint\(", path.read_text())
    ]

    assert printing == ["terminal.py"]  # others call `terminal.echo`
