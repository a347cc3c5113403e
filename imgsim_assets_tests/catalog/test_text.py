"""Encodings of lists."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from imgsim_assets_tests.support.sources import read_raw, write

_TEXT = "sku;title;image\n" + "".join(f"a{n};Möbel für {n} Stühle;u{n}\n" for n in range(9))


def _titles(folder: Path, name: str, **settings: str) -> tuple[list[str], list[str]]:
    raw = read_raw(folder, name, **settings)
    assert raw.rejects == []
    return raw.frame()["title"].to_list(), raw.notices


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-32-le", b""),
        ("utf-32-be", b""),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("cp1252", b""),
    ],
)
def test_encoding_is_detected_with_a_notice(tmp_path: Path, encoding: str, mark: bytes) -> None:
    write(tmp_path, "a.csv", mark + _TEXT.encode(encoding))

    titles, notices = _titles(tmp_path, "a.csv")

    assert titles[1] == "Möbel für 1 Stühle"
    assert "read as" in notices[0]
    assert "'encoding:'" in notices[0]


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("cp1250", "Krzesło dębowe, żółte łóżko małżeńskie"),
        ("cp1251", "Стул деревянный, стол кухонный"),
        ("cp932", "木製の椅子と赤いテーブル"),
    ],
)
def test_encoding_of_other_scripts_is_detected(tmp_path: Path, encoding: str, word: str) -> None:
    write(tmp_path, "a.csv", _TEXT.replace("Möbel für", word).replace("ü", "").encode(encoding))

    assert _titles(tmp_path, "a.csv")[0][0].startswith(word)


def test_header_that_is_not_utf8_is_decoded(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url,größe\n1,u1,2\n".encode("cp1252"))

    assert "größe" in read_raw(tmp_path, "a.csv").frame().columns


def test_first_letter_that_is_not_utf8_may_come_late(tmp_path: Path) -> None:
    rows = "".join(f"{n};plain;u\n" for n in range(60_000))
    write(tmp_path, "a.csv", b"id;title;url\n" + rows.encode() + b"x;M\xf6bel;u\n")

    assert _titles(tmp_path, "a.csv")[0][-1] == "Möbel"


def test_broken_line_of_a_utf8_list_is_rejected_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"id,title,url\n1,M\xc3\xb6bel,u\n2,M\xf6bel,u\n3,B\xc3\xa4r,u\n")

    raw = read_raw(tmp_path, "a.csv")

    assert [reject.line for reject in raw.rejects] == [3]
    assert raw.frame()["title"].to_list() == ["Möbel", "Bär"]


def test_declared_encoding_overrules_the_detected_one(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", _TEXT.encode("cp1252"))

    titles, notices = _titles(tmp_path, "a.csv", encoding="cp1251")

    assert titles[0] == "Mцbel fьr 0 Stьhle"
    assert notices == []


def test_byte_order_mark_that_contradicts_the_declaration_is_a_notice(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", _TEXT.encode("utf-8-sig"))

    titles, notices = _titles(tmp_path, "a.csv", encoding="cp1252")

    assert titles[0] == "Möbel für 0 Stühle"
    assert "overrules 'encoding: cp1252'" in notices[0]
    assert _titles(tmp_path, "a.csv", encoding="utf8")[1] == []
