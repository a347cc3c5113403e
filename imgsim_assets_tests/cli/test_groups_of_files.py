"""`imgsim groups` of folders and lists of files, and its list of redundant files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.shell import THUMBNAIL, CommandResult, Shell

LARGE = encoded(make_image(1).resize((320, 240)))
DELETIONS = ("--deletions", "redundant.txt")


def test_groups_of_a_folder_say_what_to_keep_and_why(shell: Shell) -> None:
    shell.write("photos/large.jpg", LARGE)
    shell.write("photos/a.jpg", jpeg(1, quality=40))
    shell.write("photos/b.jpg", jpeg(1, quality=95))
    shell.write("photos/other.jpg", jpeg(2))

    result = _groups(shell, "photos", "--out", "groups.csv", *DELETIONS)
    again = _groups(shell, "photos", "--json")

    rows = pl.read_csv(shell.folder / "groups.csv")
    assert result.code == 0, result.err
    assert rows.select("id", "width", "height", "format", "keep", "name", "reason").rows() == [
        ("large.jpg", 320, 240, "JPEG", True, "large", "kept: the most pixels"),
        ("b.jpg", 160, 120, "JPEG", False, "b", "large.jpg has more pixels: 76,800, not 19,200"),
        ("a.jpg", 160, 120, "JPEG", False, "a", "large.jpg has more pixels: 76,800, not 19,200"),
    ]
    assert rows["path"].to_list() == [str(_photos(shell) / name) for name in rows["id"]]
    assert rows["bytes"].to_list() == [Path(path).stat().st_size for path in rows["path"]]
    assert _listed(shell) == ["a.jpg", "b.jpg"]
    assert "3 rows written to groups.csv" in result.out
    assert "2 redundant files listed in redundant.txt; none is deleted" in result.out
    assert len(list(_photos(shell).iterdir())) == 4
    assert again.json["operands"][0]["requested"] == 0
    assert again.json["redundant_files"]["paths"] == [
        str(_photos(shell) / f"{n}.jpg") for n in "ab"
    ]


@pytest.mark.parametrize("keep", ["photos/master", "photos/master/", "master"])
def test_protected_and_canonical_files_are_never_listed(shell: Shell, keep: str) -> None:
    shell.write("photos/large.jpg", LARGE)
    for name in ("a", "b"):
        shell.write(f"photos/master/{name}.jpg", jpeg(1, quality=40))

    result = _groups(shell, "photos", "--keep", keep, "--out", "groups.csv", *DELETIONS)

    rows = pl.read_csv(shell.folder / "groups.csv")
    assert result.code == 0, result.err
    assert _listed(shell) == ["large.jpg"]
    assert dict(rows.select("id", "reason").iter_rows()) == {
        "master/a.jpg": "kept: protected",
        "master/b.jpg": "kept: protected",
        "large.jpg": "master/a.jpg is protected",
    }


def test_file_that_a_kept_item_uses_is_not_listed(shell: Shell) -> None:
    for name in ("a", "b"):
        shell.write(f"photos/{name}.jpg", jpeg(1))
    (_photos(shell) / "more").symlink_to(".")
    shell.write("list.csv", "sku,image\n1,photos/a.jpg\n2,photos/more/a.jpg\n3,photos/b.jpg\n")

    result = _groups(shell, "list.csv", *DELETIONS)

    assert _listed(shell) == ["b.jpg"]
    assert "not listed: 1, an item that is kept uses the same file" in result.out


def test_link_is_redundant_and_its_file_is_kept(shell: Shell) -> None:
    shell.write("photos/z.jpg", jpeg(1))
    (_photos(shell) / "a.jpg").symlink_to("z.jpg")
    shell.write("list.txt", "photos/a.jpg\nphotos/z.jpg\n")

    result = _groups(shell, "list.txt", "--out", "groups.csv", *DELETIONS)

    rows = pl.read_csv(shell.folder / "groups.csv")
    assert result.code == 0, result.err
    assert dict(rows.select("id", "reason").iter_rows()) == {
        "photos/z.jpg": "kept: a file, not a link",
        "photos/a.jpg": "a link; photos/z.jpg is a file",
    }
    assert _listed(shell) == ["a.jpg"]


def test_files_that_changed_after_they_were_read_are_not_listed(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        shell.write(f"photos/{name}.jpg", jpeg(1))
    shell.write("photos/x.jpg", jpeg(2))
    shell.write("photos/y.jpg", jpeg(2))
    catalog = _groups(shell, "photos", "--json").json["operands"][0]["catalog"]
    shell.write("photos/b.jpg", jpeg(9))
    (_photos(shell) / "x.jpg").unlink()

    result = _groups(shell, catalog, *DELETIONS)

    assert _listed(shell) == ["c.jpg"]
    assert "not listed: 1, gone or changed since it was read" in result.out
    assert "not listed: 1, the file to keep is gone or has changed" in result.out


def test_suspicious_groups_are_named_and_not_listed(shell: Shell) -> None:
    for number in range(12):
        shell.write(f"photos/{number:02}.jpg", jpeg(1))

    result = _groups(shell, "photos", *DELETIONS)
    allowed = _groups(shell, "photos", *DELETIONS, "--max-group-fraction", "1")

    assert "suspicious: group '00.jpg' of 12 items: it has too many of the items" in result.out
    assert "not listed: 11, in a suspicious group" in result.out
    assert "suspicious" not in allowed.out
    assert len(_listed(shell)) == 11


def test_items_with_several_images_are_grouped_by_their_best_pair(shell: Shell) -> None:
    for number in range(5):
        shell.write(f"{number}.jpg", jpeg(number))
    shell.write("copy.jpg", jpeg(2, quality=95))
    shell.write("list.csv", "id,image_1,image_2\na,1.jpg,2.jpg\nb,copy.jpg,3.jpg\nc,4.jpg,\n")

    arguments = ("list.csv", "--url", "image_1,image_2", "--out", "groups.csv")
    result = _groups(shell, *arguments, *DELETIONS)
    rows = pl.read_csv(shell.folder / "groups.csv")
    first = _groups(shell, *arguments, "--compare", "first", "--json")

    assert result.code == 0, result.err
    assert rows.select("id", "image", "url", "keep").rows() == [
        ("b", 0, "copy.jpg", True),
        ("a", 1, "2.jpg", False),
    ]
    assert _listed(shell) == []
    assert "not listed: 2, one of several images of its item" in result.out
    assert first.json["groups"] == []


def test_images_of_many_items_are_named_and_left_out(shell: Shell) -> None:
    for number in range(3):
        shell.write(f"photos/{number}.jpg", jpeg(1))

    result = _groups(shell, "photos", "--max-shared", "2")

    assert "left out: image " in result.out
    assert "of 3 items" in result.out
    assert "0 groups of 0 of 3 items" in result.out


def test_few_images_get_a_stricter_threshold_than_matches(shell: Shell) -> None:
    shell.write("photos/a.jpg", jpeg(1))
    shell.write("photos/b.jpg", jpeg(1, quality=80))

    result = shell("groups", "photos", "--encoder", "hog_color")

    assert "1 group of 2 of 2 items at 0.95 or more" in result.out
    assert "stricter than 0.9, recommended for hog_color" in result.out
    assert "--evidence" not in result.out


def test_page_shows_every_group_without_running_anything(shell: Shell) -> None:
    shell.write("list.csv", 'id,url,title\n1,a.png,<script>alert(1)</script>\n2,b.png,"x\ny"\n')
    for name in ("a", "b"):
        shell.write(f"{name}.png", encoded(make_image(1), "PNG"))

    result = _groups(shell, "list.csv", "--html", "groups.html")

    page = GalleryPage.read(shell.folder / "groups.html")
    assert result.code == 0, result.err
    assert "gallery written to groups.html" in result.out
    assert len(page.images) == 1  # both are the same image
    assert page.text.count("<script") == 3
    assert "<script>alert" not in page.text
    assert [row["item"]["title"] for row in page.rows] == ["<script>alert(1)</script>", "x\ny"]
    assert page.column("keep") == [True, False]
    assert page.rows[0]["reason"] == "kept: the first by id of equal ones"


def test_folder_that_protects_nothing_is_an_error(shell: Shell) -> None:
    shell.write("photos/a.jpg", jpeg(1))

    result = _groups(shell, "photos", "--keep", "mastr", *DELETIONS)

    assert result.code == 1
    assert "--keep: no image is in 'mastr'" in result.err
    assert not (shell.folder / "redundant.txt").exists()


def _groups(shell: Shell, operand: str, *more: str) -> CommandResult:
    return shell("groups", operand, *THUMBNAIL, "--threshold", "0.95", *more)


def _photos(shell: Shell) -> Path:
    return shell.folder / "photos"


def _listed(shell: Shell) -> list[str]:
    """The names of the redundant files."""
    return [Path(line).name for line in (shell.folder / "redundant.txt").read_text().splitlines()]
