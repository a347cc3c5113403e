"""ICO and CUR: the largest icon."""

from __future__ import annotations

import struct

from imgsim_assets.images.errors import cut_header

_ENTRY_BYTES = 16
_PNG = b"\x89PNG\r\n\x1a\n"


def largest_icon(data: bytes) -> bytes:
    """A file of one icon, or the PNG that the icon is.

    Raises:
        ImageError: truncated.
    """
    count = int.from_bytes(data[4:6], "little")
    entries = []
    for number in range(count):
        raw = data[6 + number * _ENTRY_BYTES : 6 + (number + 1) * _ENTRY_BYTES]
        if len(raw) < _ENTRY_BYTES:
            break
        width, height = raw[0] or 256, raw[1] or 256
        bits = int.from_bytes(raw[6:8], "little") if data[2] == 1 else 0
        size, offset = struct.unpack("<II", raw[8:])
        if offset + size <= len(data) and size:
            entries.append((width * height, bits, -number, raw, offset, size))
    if not entries:
        raise cut_header("ICO")
    _, _, _, raw, offset, size = max(entries)
    icon = data[offset : offset + size]
    if icon.startswith(_PNG):
        return icon
    entry = raw[:4] + b"\x01\0" + _bits_of(icon) + struct.pack("<II", size, 6 + _ENTRY_BYTES)
    return b"\0\0\x01\0\x01\0" + entry + icon


def _bits_of(icon: bytes) -> bytes:
    """The bits per pixel in the header of a bitmap, which a cursor's entry lacks."""
    return icon[14:16].ljust(2, b"\0")
