"""Outputs that would replace what a command reads."""

from __future__ import annotations

import pytest

from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import THUMBNAIL, Shell

_LIST = b"id,url\na,photos/a.jpg\nb,photos/b\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("match", "a.csv", "b.csv", *THUMBNAIL, "--out", "b.csv"),
            "--out: b.csv is an input of this command; name another file",
        ),
        (
            ("groups", "a.csv", *THUMBNAIL, "--out", "./a.csv"),
            "--out: a.csv is an input of this command; name another file",
        ),
        (
            ("groups", "*.csv", *THUMBNAIL, "--out", "a.csv"),
            "--out: a.csv is an input of this command; name another file",
        ),
        (
            ("match", "lists/*.csv", "a.csv", *THUMBNAIL, "--out", "lists/c.csv"),
            "--out: lists/c.csv is an input of this command; name another file",
        ),
        (
            ("match", "a.csv", "b.csv", *THUMBNAIL, "--ignore", "i.csv", "--out", "i.csv"),
            "--out: i.csv is an input of this command; name another file",
        ),
        (
            ("groups", "photos", *THUMBNAIL, "--deletions", "photos/a.jpg"),
            "--deletions: photos/a.jpg ends in none of .txt, .csv, .tsv",
        ),
        (
            ("groups", "a.csv", *THUMBNAIL, "--deletions", "a.csv"),
            "--deletions: a.csv is an input of this command; name another file",
        ),
        (
            ("groups", "photos", *THUMBNAIL, "--out", "x.csv", "--deletions", "./x.csv"),
            "--out: --deletions writes x.csv, too; name another file",
        ),
        (
            ("list-images", "photos", "--out", "photos/a.jpg"),
            "--out: photos/a.jpg is an input of this command; name another file",
        ),
    ],
)
def test_an_output_never_replaces_an_input_or_another_output(
    shell: Shell, arguments: tuple[str, ...], message: str
) -> None:
    shell.write("photos/a.jpg", jpeg(1))
    shell.write("photos/b", jpeg(2))
    for name in ("a.csv", "b.csv", "i.csv", "lists/c.csv"):
        shell.write(name, _LIST)
    before = {path: path.read_bytes() for path in shell.folder.rglob("*") if path.is_file()}

    result = shell(*arguments)

    assert result.code == 2
    assert message in result.err
    assert before == {path: path.read_bytes() for path in before}
    assert not (shell.folder / "data").exists()
