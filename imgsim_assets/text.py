"""Text of others, made safe to print and to log, and numbers with their nouns."""

from __future__ import annotations

import re

# Control characters, and characters that change the direction or the line of what follows.
_UNPRINTABLE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
UNPRINTABLE = f"[{_UNPRINTABLE}]"
UNPRINTABLE_IN_LINE = f"[\t\n{_UNPRINTABLE}]"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# User name and password of a URL: up to the last @ before its path, or before the next blank,
# since a password may have a slash. Azure's URLs have the name of a container there.
_CREDENTIALS = re.compile(
    r"(?i)\b(?!abfss?:|az:)([a-z][a-z0-9+.-]*://)(?:[^\s/?#@:]*:(?![0-9]*[/?#])\S*|[^\s/?#]*)@"
)
_MAX_DETAIL = 500
_UNPRINTABLE_TEXT = re.compile(UNPRINTABLE)
_UNPRINTABLE_LINE = re.compile(UNPRINTABLE_IN_LINE)


def printable(text: str) -> str:
    """Text for a terminal, a log or an error: without control characters and passwords of URLs.

    Tabs and line breaks stay.
    """
    return _UNPRINTABLE_TEXT.sub(REPLACEMENT, without_credentials(text))


def printable_line(text: str, max_length: int = _MAX_DETAIL) -> str:
    """`printable` on one line of bounded length, for what a server or a library said."""
    # The patterns read no more of a text of many megabytes.
    short = text[: 2 * max_length].encode(errors="replace").decode()
    line = _UNPRINTABLE_LINE.sub(" ", without_credentials(short))
    return line if len(line) <= max_length else f"{line[: max_length - 1]}\N{HORIZONTAL ELLIPSIS}"


def without_credentials(text: str) -> str:
    """Text in which `***` replaces the user names and passwords of URLs."""
    return _CREDENTIALS.sub(r"\1***@", text) if "@" in text else text


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as "1 item" and "2,000 items".

    Args:
        number: how many.
        noun: for one.
        plural: for other numbers; by default the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
