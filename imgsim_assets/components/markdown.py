"""Text of data in Markdown: shown as it is, so that nothing in it is rendered, linked or loaded."""

from __future__ import annotations

import re

# Dagster renders descriptions as GitHub Flavored Markdown, which links addresses after it has
# resolved escapes: a word joiner, which has no width, keeps it from seeing one.
_JOINER = "\N{WORD JOINER}"
_ADDRESS_PARTS = {"://": f":{_JOINER}//", "www.": f"www{_JOINER}.", "@": f"@{_JOINER}"}


_ACTIVE = re.compile(r"([\\`*_{}\[\]<>()#!|~&$])")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]<>()#!|~&$])")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; a line must not start with it."""
    for part, broken in _ADDRESS_PARTS.items():
        text = text.replace(part, broken)
    return _ACTIVE.sub(r"\\\1", text)


def unescape_markdown(text: str) -> str:
    """The text that was escaped."""
    return _ESCAPED.sub(r"\1", text).replace(_JOINER, "")
