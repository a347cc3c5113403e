from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.status import FetchError
from imgsim_assets.errors import SourceError
from imgsim_assets.images.errors import ImageError
from imgsim_assets.progress import printable_log
from imgsim_assets.text import printable, printable_line, without_credentials

_DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text())
def test_printable_text_has_no_control_character_but_tab_and_line_feed(text: str) -> None:
    shown = printable(text)

    kinds = {unicodedata.category(letter) for letter in set(shown) - set("\t\n")}
    assert not kinds & {"Cc", "Zl", "Zp"}
    assert not set(shown) & set(_DIRECTION)
    assert printable(shown) == shown


@given(st.text(max_size=2000), st.integers(1, 100))
def test_a_printable_line_is_one_line_of_bounded_length(text: str, length: int) -> None:
    line = printable_line(text, length)

    assert len(line) <= length
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host/x.jpg", "http://***@host/x.jpg"),
        ("http://ann:se/cr@et@host/x", "http://***@host/x"),
        ("failed for https://token@host/ (401)", "failed for https://***@host/ (401)"),
        ("HTTP://:secret@host and ftp://a:b@c", "HTTP://***@host and ftp://***@c"),
        ("http://host/image@2x.jpg", "http://host/image@2x.jpg"),
        ("http://host:8080/a:b@2x.jpg", "http://host:8080/a:b@2x.jpg"),
        ("https://host/?mail=a:b@c", "https://host/?mail=a:b@c"),
        ("abfss://container@account/x", "abfss://container@account/x"),
        ("write to ann@example.com", "write to ann@example.com"),
    ],
)
def test_credentials_of_urls_are_masked(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_errors_details_and_logs_are_printable() -> None:
    hostile = "\x1b]0;title\x07 http://a:secret@host/ \x9b31m" + "x" * 12_000
    logged: list[str] = []

    printable_log(logged.append)(hostile)
    texts = [
        *logged,
        str(SourceError(hostile)),
        FetchError("http_404", hostile).detail,
        str(FetchError("http_404", hostile)),
        ImageError("not_image", hostile).detail,
    ]

    for text in texts:
        assert "secret" not in text
        assert not set(text) & set("\x1b\x07\x9b")
    assert max(map(len, texts[2:])) < 600
