"""Lists and folders as operands of `imgsim match`."""

from __future__ import annotations

import json
import shlex

import pytest
from PIL import Image

from imgsim_assets_tests.support.catalogs import tiny
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.web import Web


def _allow(web: Web) -> tuple[str, str]:
    return ("--allowed-host", web.address)


def test_columns_option_selects_and_orders_result_columns(shell: Shell) -> None:
    shell.write("a.jpg", jpeg(1))
    shell.write("list.csv", "title,shop,path,id\nA,one,a.jpg,7\n")

    result = shell.match_copy("list.csv", "--columns", "id,title,path", "--out", "r.tsv")

    assert result.code == 0, result.err
    table = shell.table("r.tsv")
    assert table.columns[:3] == ["left_id", "left_title", "left_path"]
    assert table.row(0) == ("7", "A", "a.jpg", "7", "A", "a.jpg", "1.00000")


def test_image_and_id_columns_are_recognized_and_printed(shell: Shell) -> None:
    shell.write("a.jpg", jpeg(1))
    shell.write("left.csv", "sku,image,price\nS-7,a.jpg,9.99\n")
    shell.write("right.tsv", "stock\tphoto\tarticle\n3\ta.jpg\tA-1\n")

    result = shell.match("left.csv", "right.tsv", "--out", "r.tsv")

    assert result.code == 0, result.err
    assert "left.csv: 1 item, 1 usable" in result.out
    assert "images from column 'image', ids from 'sku'" in result.out
    assert "images from column 'photo', ids from 'article'" in result.out
    assert shell.table("r.tsv").rows() == [("S-7", "a.jpg", "9.99", "3", "a.jpg", "A-1", "1.00000")]


def test_columns_can_be_named_for_each_list(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("left.csv", "nr,ean,front,back\nx1,y1,1.jpg,2.jpg\n")
    shell.write("right.csv", "code,picture\n5,1.jpg\n")

    asked = shell.match("left.csv", "right.csv")
    asked_again = shell.match("left.csv", "right.csv", "--left-url", "front")
    named = shell.match(
        "left.csv", "right.csv", "--left-url", "front", "--left-id", "ean", "--right-id", "code",
        "--json",
    )  # fmt: skip

    assert (asked.code, asked_again.code) == (1, 1)
    assert "Set '--left-url' to one of 'front', 'back'" in asked.err
    assert "Set '--left-id' to one of 'nr', 'ean'" in asked_again.err
    assert (named.json["left"]["id_column"], named.json["right"]["url_columns"]) == (
        "ean",
        ["picture"],
    )


def test_items_with_several_images_show_the_images_that_matched(shell: Shell) -> None:
    shell.write_images(1, 2, 3, 4)
    shell.write("left.csv", "sku,front,back\nA,1.jpg,2.jpg\nB,,3.jpg\n")
    shell.write("right.csv", "sku,photos\nx,4.jpg|2.jpg\ny,3.jpg\n")
    arguments = ("left.csv", "right.csv", "--left-url", "front,back")

    result = shell.match(*arguments, "--out", "r.tsv")
    same = ("left.csv", "left.csv", "--url", "front,back", "--columns", "sku,back")
    selected = shell.match(*same, "--out", "selected.tsv")
    first = shell.match(*arguments, "--compare", "first", "--threshold", "0.95", "--json")

    assert result.code == 0, result.err
    assert "images from columns 'front', 'back', ids from 'sku'" in result.out
    assert "'--separator \"|\"'" in result.out
    table = shell.table("r.tsv")
    assert table.columns == [
        "left_sku", "left_url", "left_image_number",
        "right_sku", "right_photos", "right_image_number", "similarity",
    ]  # fmt: skip
    assert table.rows() == [
        ("A", "2.jpg", "1", "x", "2.jpg", "1", "1.00000"),
        ("B", "3.jpg", "0", "y", "3.jpg", "0", "1.00000"),
    ]
    assert selected.code == 0, selected.err
    columns = shell.table("selected.tsv").columns
    assert columns == ["left_sku", "left_url", "right_sku", "right_url", "similarity"]
    assert [match["left_sku"] for match in first.json["matches"]] == ["B"]
    matrix = {row["left_id"]: row["x"] for row in first.json["matrix"]}
    assert matrix["A"] < 0.95


def test_columns_that_also_hold_images_are_named_by_the_command(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "sku,image,image2\nA,1.jpg,2.jpg\nB,2.jpg,\n")

    result = shell.match("list.csv", "list.csv")

    assert "'image2'; '--left-url image,image2' takes them as further images" in result.out


def test_problems_of_both_lists_are_reported_at_once(shell: Shell) -> None:
    shell.write("a.csv", "sku,price\n1,2\n")
    shell.write("b.csv", "sku,size\n1,2\n")

    result = shell.match("a.csv", "b.csv")

    assert result.code == 1
    assert all(f"{name}.csv" in result.err for name in "ab")
    assert all(f"--{side}-url" in result.err for side in ("left", "right"))


def test_option_of_one_list_that_lacks_the_column_is_named(shell: Shell) -> None:
    shell.write("list.csv", "id,url\n1,1.jpg\n")

    result = shell.match("list.csv", "list.csv", "--right-url", "link")

    assert result.code == 2
    assert "--right-url: list.csv has no column 'link'; it has 'id', 'url'" in result.err


@pytest.mark.parametrize(
    ("content", "message", "options"),
    [
        ("id,url\n1,1.jpg,x\n", "list.csv line 2: 3 fields", ("--ragged", "pad")),
        ("Export\nid,url\n1,1.jpg\n", "set '--skip-lines 1'", ("--skip-lines", "1")),
        ("1,1.jpg\n", "set '--no-header'", ("--no-header",)),
        ("id,url\n1,1.jpg\n1,1.jpg\n", "'--on-duplicate' says", ("--on-duplicate", "last")),
        ("id,link,url\n1,1.jpg,\n", "'--left-url' names", ("--url", "link")),
        ("id^url\n1^1.jpg\n", "", ("--delimiter", "^")),
        ("id,url\n1,'1.jpg'\n", "", ("--quote", "'")),
    ],
)
def test_message_names_the_option_that_reads_the_list(
    shell: Shell, content: str, message: str, options: tuple[str, ...]
) -> None:
    shell.write_images(1)
    shell.write("list.csv", content)
    strict = ("--on-duplicate", "reject") if "duplicate" in message else ()
    strict = ("--url", "url") if "-url" in message else strict

    refused = shell.match("list.csv", "list.csv", *strict)
    read = shell.match("list.csv", "list.csv", *options, "--json")

    if message:
        assert refused.code == 1
        assert message in refused.err
        assert "holds no row" not in refused.err
    assert read.code == 0, read.err
    assert read.json["left"]["images"] == 1


def test_rejected_rows_are_shown_with_the_option_that_accepts_them(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", "id,url\n1,1.jpg\n2,1.jpg,x\n")

    result = shell.match("list.csv", "list.csv")

    assert "list.csv line 3: 3 fields where 2 are expected" in result.out
    assert "'--ragged pad'" in result.out


def test_rows_that_share_an_image_are_all_matched(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "image,title\n1.jpg,a\n1.jpg,b\n2.jpg,c\n")

    result = shell.match_copy("list.csv", "--json")

    assert [match["left_title"] for match in result.json["matches"]] == ["a", "b", "c"]
    assert result.json["left"]["rejects"] == 0


def test_weights_of_the_shell_are_named_by_their_option(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", "id,url\n1,1.jpg\n")
    shell.write("broken.pth", b"no state dict")

    result = shell(
        "match", "list.csv", "list.csv", "--encoder", "resnet18", "--weights", "broken.pth"
    )

    assert result.code == 1
    assert "--weights: " in result.err


def test_local_paths_and_urls_can_be_mixed(shell: Shell, web: Web) -> None:
    web.pages["/1.jpg"] = jpeg(1)
    path = shell.write("pics/1.jpg", jpeg(1))
    shell.write("paths.csv", f"id,url\na,pics/1.jpg\nb,{path}\nc,{web.url('/1.jpg')}\n")
    shell.write("urls.txt", f"{web.url('/1.jpg')}\n")

    result = shell.match("paths.csv", "urls.txt", *_allow(web), "--json")

    assert [match["left_id"] for match in result.json["matches"]] == ["a", "b", "c"]
    assert {match["similarity"] for match in result.json["matches"]} == {1.0}


def test_list_of_a_folder_can_be_matched_from_another_folder(shell: Shell) -> None:
    for seed in range(3):
        shell.write(f"pics/{seed}.jpg", jpeg(seed))
    (shell.folder / "lists").mkdir()

    shell("list-images", "pics", "--out", "lists/pics.csv")
    result = shell.match("lists/pics.csv", "pics", "--out", "r.tsv")

    assert result.code == 0
    assert shell.table("r.tsv")["left_name"].to_list() == ["0.jpg", "1.jpg", "2.jpg"]


_LOADER = """
from pathlib import Path
from PIL import Image

def load(row):
    with Path("loaded.txt").open("a") as log:
        log.write(row["id"] + "\\n")
    if row["id"] == "none":
        return None
    if row["id"] == "bad":
        raise RuntimeError("no luck")
    image = Image.open(row["url"])
    return Path(row["url"]).read_bytes() if row["id"] == "1" else image
"""


def test_loader_replaces_the_download(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.write("my_loader.py", _LOADER)
    monkeypatch.syspath_prepend(str(shell.folder))
    for seed in range(2):
        shell.write(f"{seed}.jpg", jpeg(seed))
    shell.write("list.csv", "id,url\n0,0.jpg\n1,1.jpg\nnone,x\nbad,x\n")

    result = shell.match_copy("list.csv", "--loader", "my_loader:load", "--json")
    first = (shell.folder / "loaded.txt").read_text().splitlines()
    shell.match_copy("list.csv", "--loader", "my_loader:load", "--json")
    second = (shell.folder / "loaded.txt").read_text().splitlines()[len(first) :]

    assert result.code == 0, result.err
    assert [match["left_id"] for match in result.json["matches"]] == ["0", "1"]
    assert result.json["left"]["failures"] == {"loader_error": 1, "no_image": 1}
    assert sorted(first) == sorted(2 * ["0", "1", "bad", "none"])
    assert sorted(second) == sorted(2 * ["bad", "none"])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("nowhere", "is not of the form 'package.module:function'"),
        ("no_such_module_at_all:load", "No module named"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("json:__name__", "is str; name a function"),
    ],
)
def test_invalid_loader_is_named(shell: Shell, loader: str, message: str) -> None:
    shell.write("list.csv", "id,url\n0,0.jpg\n")

    result = shell.match("list.csv", "list.csv", "--loader", loader)

    assert result.code == 1
    assert message in result.err


def _ids(shell: Shell, source: str, *more: str) -> list[str]:
    result = shell.match_copy(source, "--json", *more)
    assert result.code == 0, result.err
    return [next(iter(match.values())) for match in result.json["matches"]]


def test_list_of_one_column_has_an_image_per_row(shell: Shell) -> None:
    shell.write_images(1, 2, 3)
    shell.write("urls.csv", "url\n1.jpg\n2.jpg\n3.jpg\n")

    assert _ids(shell, "urls.csv") == ["1.jpg", "2.jpg", "3.jpg"]


def test_quoted_fields_are_read(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", 'title,url\n"a, b",1.jpg\nc,2.jpg\n')

    assert _ids(shell, "list.csv") == ["a, b", "c"]


def test_row_with_too_many_fields_is_rejected_and_reported(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "title,url\na,b,1.jpg\nc,2.jpg\n")

    assert _ids(shell, "list.csv") == ["c"]
    printed = shell.match_copy("list.csv").out
    assert "rejected rows: 1" in printed
    assert "list.csv line 2" in printed


def test_ids_that_repeat_are_named_with_the_option_of_their_list(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("left.csv", "sku,url\na,1.jpg\nb,2.jpg\n")
    shell.write("right.csv", "sku,url\na,1.jpg\nb,2.jpg\nb,1.jpg\n")

    printed = shell.match("left.csv", "right.csv").out

    assert printed.count("is not taken as the ids") == 1
    assert "1 of 3 cells are empty or repeated; set '--right-id' to take it" in printed


def test_byte_order_mark_and_quotes_are_not_part_of_column_names(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", b"\xef\xbb\xbf" + b'"id","url"\n5,1.jpg\n')

    assert _ids(shell, "list.csv", "--columns", "id,url") == ["5"]


def test_folder_without_images_is_an_error_that_names_their_suffixes(shell: Shell) -> None:
    (shell.folder / "none").mkdir()
    shell.write("none/notes.txt", "no image")

    result = shell.match("none", "none")

    assert result.code == 1
    assert "none holds no images (.avif .bmp" in result.err


def test_list_without_rows_is_an_error(shell: Shell) -> None:
    shell.write("list.csv", "id,url\n")

    result = shell.match("list.csv", "list.csv")

    assert result.code == 1
    assert "list.csv holds no row" in result.err


def test_uniform_image_gets_a_status_and_no_match(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("gray.png", encoded(Image.new("RGB", (60, 60), (128, 128, 128)), "PNG"))
    for name in ("list.csv", "copy.csv"):
        shell.write(name, "id,url\ngrey,gray.png\n1,1.jpg\n")

    result = shell(
        "match", "list.csv", "copy.csv", "--encoder", "hog_color", "--mode", "all", "--json"
    )

    assert [match["left_id"] for match in result.json["matches"]] == ["1"]
    assert result.json["left"]["failures"] == {"blank": 1}


def test_images_without_content_take_part_if_the_options_say_so(shell: Shell) -> None:
    shell.write("red.png", encoded(Image.new("RGB", (60, 60), (200, 10, 10)), "PNG"))
    shell.write("icon.png", encoded(make_image(3, (12, 12)), "PNG"))
    shell.write("list.csv", "id,url\nred,red.png\nicon,icon.png\n")
    options = ("match", "list.csv", "list.csv", "--encoder", "hog_color", "--json")

    without = shell(*options)
    with_all = shell(*options, "--blank", "keep", "--min-side", "1")

    assert without.json["left"]["failures"] == {"blank": 1, "too_small": 1}
    assert without.json["matches"] == []
    assert with_all.json["left"]["failures"] == {}
    assert with_all.json["left"]["embedded"] == 2


def test_list_whose_downloads_all_fail_reports_the_reason(shell: Shell, web: Web) -> None:
    shell.write("list.csv", f"id,url\n1,{web.url('/gone.jpg')}\n2,{web.url('/too.jpg')}\n")

    result = shell.match("list.csv", "list.csv", *_allow(web))

    assert result.code == 3
    assert "2 items, 0 usable" in result.out
    assert "http_404 2" in result.out


def test_tabs_and_line_breaks_in_fields_are_preserved(shell: Shell) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", 'title,url\n"a\tb",1.jpg\n"c\nd",2.jpg\n')

    result = shell.match_copy("list.csv", "--out", "r.tsv")

    assert result.code == 0
    table = shell.table("r.tsv")
    assert table["left_title"].to_list() == ["a\tb", "c\nd"]
    assert table["right_url"].to_list() == ["1.jpg", "2.jpg"]


def test_delimiter_accepts_backslash_t(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", "id\turl\n5\t1.jpg\n")

    assert _ids(shell, "list.csv", "--delimiter", "\\t") == ["5"]


def test_columns_are_numbered_without_a_header(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", "5,x,1.jpg\n")

    result = shell.match_copy("list.csv", "--no-header", "--columns", "column_1,column_3", "--json")

    (match,) = result.json["matches"]
    assert list(match)[:2] == ["left_column_1", "left_column_3"]


def test_internal_address_is_blocked_unless_allowed(shell: Shell, web: Web) -> None:
    web.pages["/1.jpg"] = jpeg(1)
    shell.write("list.csv", f"id,url\n1,{web.url('/1.jpg')}\n")

    refused = shell.match("list.csv", "list.csv")
    allowed = shell.match("list.csv", "list.csv", *_allow(web))

    assert refused.code == 3
    assert "blocked_address 1" in refused.out
    assert f"{web.address} is an internal host" in refused.out
    assert f"--allowed-host {web.address}" in refused.out
    assert allowed.code == 0


def test_internal_host_that_does_not_answer_is_named(shell: Shell) -> None:
    shell.write("list.csv", "id,url\n1,http://127.0.0.1:9/1.jpg\n")

    result = shell.match("list.csv", "list.csv", "--allowed-host", "127.0.0.1:9", "--retries", "0")

    assert result.code == 3
    assert "127.0.0.1:9 is an internal host; it does not answer" in result.out


def test_path_outside_the_lists_folder_is_blocked_without_root(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("lists/list.csv", "id,url\n1,../1.jpg\n")

    refused = shell.match("lists/list.csv", "lists/list.csv")
    (shell.folder / "lists" / "list.csv").write_text("id,url\n1,1.jpg\n")
    allowed = shell.match("lists/list.csv", "lists/list.csv", "--root", ".")

    assert "blocked_path 1" in refused.out
    assert "--root" in refused.out
    assert allowed.code == 0


def test_missing_list_is_named(shell: Shell) -> None:
    result = shell.match("nothing.csv", "nothing.csv")

    assert result.code == 1
    assert "nothing.csv" in result.err
    assert "Traceback" not in result.err


def test_lists_with_the_same_file_name_are_two_catalogs(shell: Shell) -> None:
    shell.write_images(1, 2)
    for folder, seed in (("a", 1), ("b", 2)):
        shell.write(f"{folder}/list.csv", f"id,url\n{seed},{seed}.jpg\n")
        shell.write(f"{folder}/{seed}.jpg", jpeg(seed))

    result = shell.match("a/list.csv", "b/list.csv", "--threshold", "-1", "--json")

    assert result.json["left"]["catalog"] != result.json["right"]["catalog"]
    assert [tuple(match.values())[:3:2] for match in result.json["matches"]] == [("1", "2")]


def test_large_list_is_split_into_shards(shell: Shell) -> None:
    lines = ["id,url"]
    for seed in range(600):
        shell.write(f"p/{seed}.png", tiny(seed))
        lines.append(f"{seed},p/{seed}.png")
    shell.write("list.csv", "\n".join(lines))

    result = shell.match_copy("list.csv", "--json")

    assert len(result.json["matches"]) == 600
    catalog = result.json["left"]["catalog"]
    commit = shell.store.table(f"{catalog}/embeddings").latest()
    assert commit is not None
    assert len(commit.files) == 4
    assert json.dumps(result.json["left"]["failures"]) == "{}"


@pytest.mark.parametrize("images", ["front", "front,back"])
def test_source_can_carry_a_column_image(shell: Shell, images: str) -> None:
    shell.write_images(1, 2)
    shell.write("list.csv", "sku,front,back,image\nA,1.jpg,2.jpg,x\nB,2.jpg,1.jpg,y\n")

    result = shell.match("list.csv", "list.csv", "--url", images, "--out", "r.tsv")

    assert result.code == 0, result.err
    assert {"left_image", "right_image"} <= set(shell.table("r.tsv").columns)


def test_source_column_can_have_the_name_of_an_internal_column(shell: Shell) -> None:
    shell.write_images(1)
    shell.write("list.csv", "id,sku,url,image\n9,A,http://shop/1,1.jpg\n")

    result = shell.match_copy("list.csv", "--id", "sku", "--url", "image", "--json")

    (match,) = result.json["matches"]
    assert list(match.values())[:4] == ["9", "A", "http://shop/1", "1.jpg"]


def test_failed_images_come_with_the_command_that_names_them(shell: Shell) -> None:
    shell.write("photos/good.jpg", jpeg(1))
    shell.write("photos/broken.jpg", b"no image")

    result = shell.match("photos", "photos", "--store", "my store")
    (line,) = [line for line in result.out.splitlines() if "imgsim failures" in line]
    named = shell(*shlex.split(line.partition("imgsim ")[2]))

    assert "--store 'my store'" in line
    assert named.code == 0, named.err
    assert "broken.jpg" in named.out
