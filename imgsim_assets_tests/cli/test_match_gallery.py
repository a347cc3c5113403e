"""`imgsim match --html`."""

from __future__ import annotations

from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.shell import Shell

_HOG = ("--encoder", "hog_color")


def _lists(shell: Shell) -> None:
    for seed in range(3):
        shell.write(f"a{seed}.jpg", jpeg(seed))
        shell.write(f"b{seed}.jpg", encoded(make_image(seed), "JPEG", quality=50))
    titles = ["red", "</script><b>blue</b>", "green"]
    left = "".join(f"{seed},a{seed}.jpg,{titles[seed]},{seed}.50\n" for seed in range(3))
    right = "".join(f"0{seed},b{seed}.jpg,{titles[seed]} shoe\n" for seed in range(3))
    shell.write("left.csv", "sku,image,title,price\n" + left)
    shell.write("right.csv", "number,photo,title\n" + right)


def test_match_writes_a_page_with_the_columns_of_both_lists(shell: Shell) -> None:
    _lists(shell)

    result = shell("match", "left.csv", "right.csv", *_HOG, "--html", "m.html", "--out", "m.tsv")

    assert result.code == 0, result.err
    assert "gallery written to m.html" in result.out
    page = GalleryPage.read(shell.folder / "m.html")
    assert page.data["labels"] == ["left.csv", "right.csv"]
    assert list(zip(page.column("left_id"), page.column("right_id"), strict=True)) == [
        ("0", "00"),
        ("1", "01"),
        ("2", "02"),
    ]
    title = "</script><b>blue</b>"
    assert page.rows[1]["left"] == {"image": "a1.jpg", "title": title, "price": "1.50"}
    assert page.rows[1]["right"] == {"photo": "b1.jpg", "title": f"{title} shoe"}
    assert "<b>blue" not in page.text
    assert page.column("left thumbnail") == [0, 2, 4]
    assert shell.table("m.tsv").height == 3


def test_lists_may_carry_columns_of_any_name(shell: Shell) -> None:
    shell.write("a.jpg", jpeg(1))
    names = ["image", "__id", "__image", "__left_id", "position", "row"]
    shell.write("left.csv", f"sku,url,{','.join(names)}\n1,a.jpg,{','.join(names)}\n")
    shell.write("right.csv", "sku,url\n2,a.jpg\n")
    columns = ("--left-id", "sku", "--left-url", "url")

    result = shell(
        *("match", "left.csv", "right.csv", *_HOG, *columns),
        *("--html", "m.html", "--out", "m.tsv"),
    )

    assert result.code == 0, result.err
    page = GalleryPage.read(shell.folder / "m.html")
    assert page.rows[0]["left"] == {"url": "a.jpg", **{name: name for name in names}}
    table = shell.table("m.tsv")
    assert table.select(f"left_{name}" for name in names).row(0) == tuple(names)


def test_page_of_a_repeated_match_has_the_same_bytes_and_decodes_nothing(shell: Shell) -> None:
    _lists(shell)
    args = ("match", "left.csv", "right.csv", *_HOG)
    assert shell(*args, "--html", "first.html").code == 0
    store = shell.store
    tables = {name: store.table(name).versions() for name in store.table_names()}

    assert shell(*args, "--html", "second.html").code == 0

    first, second = ((shell.folder / name).read_bytes() for name in ("first.html", "second.html"))
    assert first == second
    assert tables == {name: store.table(name).versions() for name in store.table_names()}


def test_page_of_evidence_shows_its_tiers(shell: Shell) -> None:
    shell.write("left.csv", "id,url\n1,a.png\n")
    shell.write("right.csv", "id,url\n1,a.png\n2,a.png\n")
    shell.write("a.png", encoded(make_image(1), "PNG"))

    result = shell("match", "left.csv", "right.csv", *_HOG, "--evidence", "--html", "m.html")

    assert result.code == 0, result.err
    assert GalleryPage.read(shell.folder / "m.html").column("evidence") == ["same_bytes"]


def test_page_without_matches_says_so(shell: Shell) -> None:
    _lists(shell)

    result = shell("match", "left.csv", "right.csv", *_HOG, "--threshold", "1", "--html", "m.html")

    assert result.code == 0, result.err
    assert "There are no matches." in (shell.folder / "m.html").read_text()


def test_wrong_file_name_is_an_error_before_any_work(shell: Shell) -> None:
    _lists(shell)

    wrong = shell("match", "left.csv", "right.csv", *_HOG, "--html", "m.txt")
    nowhere = shell("match", "left.csv", "right.csv", *_HOG, "--html", "no/m.html")

    assert (wrong.code, nowhere.code) == (2, 2)
    assert "--html: m.txt does not end in .html" in wrong.err
    assert "--html: there is no folder" in nowhere.err
    assert not shell.store.table_names()
