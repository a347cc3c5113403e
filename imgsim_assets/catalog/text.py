"""Bytes to text: encodings, byte order marks and zero-width characters."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable
from typing import IO, Any, cast

INVALID_TEXT = "bytes that are not valid text in the encoding"
# Invisible characters that editors and spreadsheets leave around a cell.
ZERO_WIDTH = "\ufeff\u200b\u200c\u200d\u2060"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 4096
# Shares of zero bytes at one position of a character.
_MANY, _FEW = 0.3, 0.2
_MAX_SAMPLE_BYTES = 64 * 1024
# The encodings that lists are found in, besides those of Unicode.
_LEGACY = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"]
_LEGACY += ["koi8_r", "mac_roman", "cp932", "gb18030", "big5", "cp949", "euc_jp"]
_MARK_INVALID = "imgsim_assets.mark"


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    """Replace undecodable bytes by an unpaired surrogate, which valid text cannot contain."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(_MARK_INVALID, _mark_invalid)


def open_text(raw: IO[bytes], encoding: str | None) -> io.TextIOWrapper:
    """Decode a stream; a byte order mark takes precedence over the encoding.

    Without an encoding it is UTF-8, or UTF-16 or UTF-32 if the zero bytes show it. Bytes that are
    not valid text are marked: `is_valid` is False for their lines.
    """
    buffered = buffered_reader(raw)
    head = buffered.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    return io.TextIOWrapper(
        buffered,
        encoding=marked_encoding(head) or encoding or _wide_encoding(head) or "utf-8",
        errors=_MARK_INVALID,
        newline="",
    )


def buffered_reader(raw: IO[bytes]) -> io.BufferedReader:
    """The stream with `peek`."""
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast("Any", raw))


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark declares."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark: most high bytes of a list are zero."""
    units = len(head) // 4
    if not units:
        return None
    zeros = [head[offset : units * 4 : 4].count(0) / units for offset in range(4)]
    patterns = {"utf-32-le": "0111", "utf-32-be": "1110", "utf-16-le": "0101", "utf-16-be": "1010"}
    seen = "".join("1" if share > _MANY else "0" if share < _FEW else "?" for share in zeros)
    return next((name for name, pattern in patterns.items() if pattern == seen), None)


def legacy_encoding(lines: Iterable[bytes]) -> str | None:
    """The most likely encoding of lines that are not UTF-8; None if most lines are.

    A file with valid multi-byte characters is UTF-8 with some broken lines.
    """
    from charset_normalizer import from_bytes

    sample = bytearray()
    broken = 0
    for line in lines:
        if line.isascii():
            continue
        try:
            line.decode()
            broken -= 1
        except UnicodeDecodeError:
            broken += 1
            if len(sample) < _MAX_SAMPLE_BYTES:
                sample += line[:_MAX_SAMPLE_BYTES]
    if broken <= 0:
        return None
    best = from_bytes(bytes(sample), cp_isolation=_LEGACY).best()
    # Where the encodings agree on the sample, the most frequent one is named.
    if best is None or str(best) == sample.decode("cp1252", errors="replace"):
        return "cp1252"
    return best.encoding


def is_valid(text: str) -> bool:
    """Whether a line read by `open_text` was valid in its encoding."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
