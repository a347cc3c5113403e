"""GIF: the first frame."""

from __future__ import annotations

from imgsim_assets.images.errors import cut_header

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9


def first_frame(data: bytes) -> bytes:
    """The file without comments and other extensions before its first frame.

    Decoders stop after that frame, so what follows it stays.

    Raises:
        ImageError: truncated.
    """
    if len(data) < 13:
        raise cut_header("GIF")
    head_end = at = 13 + _color_table_bytes(data[10])
    control = b""
    while at < len(data):
        if data[at] == _IMAGE:
            return data[:head_end] + control + data[at:]
        if data[at] == _END:
            break
        if data[at] != _EXTENSION:
            at += 1
            continue
        end = _blocks_end(data, at + 2)
        if data[at + 1 : at + 2] == bytes([_GRAPHIC_CONTROL]):
            control = data[at:end]
        at = end
    raise cut_header("GIF")


def _color_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    """Where a list of blocks ends, each behind a byte with its length; an empty one is the last."""
    size = len(data)
    while at < size:
        length = data[at]
        at += length + 1
        if not length:
            break
    return at
