from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.components.markdown import escape_markdown, unescape_markdown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("![t](javascript:1)", r"\!\[t\]\(javascript:1\)"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        (r"a\|b `c`", r"a\\\|b \`c\`"),
        ("http://x www.y a@b", "http:\u2060//x www\u2060.y a@\u2060b"),
    ],
)
def test_what_markdown_would_render_is_escaped(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


@given(st.text(alphabet=st.characters(exclude_characters="\u2060")))
def test_escaping_loses_nothing(text: str) -> None:
    assert unescape_markdown(escape_markdown(text)) == text
