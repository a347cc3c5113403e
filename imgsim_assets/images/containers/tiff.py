"""TIFF: the first directory with the tags that the pixels need."""

from __future__ import annotations

import struct
from typing import NamedTuple

from imgsim_assets.images.containers.jpeg import MAX_SCANNED_PIXELS
from imgsim_assets.images.errors import ImageError, cut_header, too_complex

_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 256, 257, 259, 262
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
_PIXEL_TAGS = frozenset(
    {
        *range(256, 260),
        *(262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
        *(322, 323, 324, 325, 332, 338, 339, 347),
        *range(512, 522),
        *range(529, 533),
        34675,
    }
)
# Bytes of a value by type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = frozenset({32767, 32769, 34713, 65000, 65535})
_JPEG = frozenset({6, 7})
_MAX_PARTS = 2**18
# Parts that lie on each other would be read again and again.
_MAX_OVERLAP = 4
# What libtiff reads of one part.
_MAX_SCANS = 100


class _Entry(NamedTuple):
    tag: int
    kind: int
    values: int
    raw: bytes  # the entry as stored


def pixel_tags(data: bytes) -> bytes:
    """The file with a first directory of only these tags behind it, and no other directory.

    Raises:
        ImageError: truncated, unsupported_format for a camera's RAW file, or too_complex.
    """
    order = "<" if data[:2] == b"II" else ">"
    if data[8:10] == b"CR":
        raise ImageError("unsupported_format", "camera RAW (CR2)")
    is_big = data[2:4] in (b"+\0", b"\0+")
    entries = _entries(data, order, is_big)
    _refuse_raw(data, order, entries)
    _check_parts(data, order, entries)
    kept = [entry for entry in entries.values() if entry.tag in _PIXEL_TAGS]
    offset = len(data) + len(data) % 2
    count = struct.pack(order + ("Q" if is_big else "H"), len(kept))
    directory = count + b"".join(entry.raw for entry in sorted(kept)) + bytes(8 if is_big else 4)
    start = 8 if is_big else 4
    pointer = struct.pack(order + ("Q" if is_big else "I"), offset)
    rest = data[start + len(pointer) :]
    return b"".join([data[:start], pointer, rest, bytes(len(data) % 2), directory])


def _entries(data: bytes, order: str, is_big: bool) -> dict[int, _Entry]:
    """The first entry of each tag whose values lie in the file."""
    try:
        (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
        at += 8 if is_big else 2
        size = 20 if is_big else 12
        if count > 65535 or at + count * size > len(data):
            raise cut_header("TIFF")
        entries: dict[int, _Entry] = {}
        for start in range(at, at + count * size, size):
            tag, kind, values = struct.unpack_from(
                order + ("HHQ" if is_big else "HHI"), data, start
            )
            if kind in _SIZES and values * _SIZES[kind] <= len(data):
                entries.setdefault(tag, _Entry(tag, kind, values, data[start : start + size]))
    except (struct.error, OverflowError):
        raise cut_header("TIFF") from None
    return entries


def _values(data: bytes, order: str, entry: _Entry | None) -> tuple[int, ...]:
    """The numbers of an entry; none where they lie outside the file."""
    if entry is None or entry.kind not in _LETTERS:
        return ()
    size = entry.values * _SIZES[entry.kind]
    inline = entry.raw[12:] if len(entry.raw) == 20 else entry.raw[8:]
    pattern = f"{order}{entry.values}{_LETTERS[entry.kind]}"
    if size <= len(inline):
        return struct.unpack_from(pattern, inline)
    (offset,) = struct.unpack(order + ("Q" if len(inline) == 8 else "I"), inline)
    if offset + size > len(data):
        return ()
    return struct.unpack_from(pattern, data, offset)


def _refuse_raw(data: bytes, order: str, entries: dict[int, _Entry]) -> None:
    """Raise for a camera's file, whose first directory is only a preview."""

    def first(tag: int) -> int:
        return (*_values(data, order, entries.get(tag)), 0)[0]

    is_preview = first(_SUBFILE_TYPE) & 1 and _SUB_DIRECTORIES in entries
    is_raw = first(_PHOTOMETRIC) in (_CFA, _LINEAR_RAW) or first(_COMPRESSION) in _RAW_COMPRESSIONS
    if _DNG_VERSION in entries or is_preview or is_raw:
        raise ImageError("unsupported_format", "camera RAW (DNG, NEF, ARW or the like)")


def _check_parts(data: bytes, order: str, entries: dict[int, _Entry]) -> None:
    """Refuse too many strips or tiles, and those whose reading takes far more than the file."""
    for offsets_tag, lengths_tag in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        entry = entries.get(offsets_tag)
        if entry is None:
            continue
        if entry.values > _MAX_PARTS:
            raise too_complex(f"{entry.values} strips or tiles")
        offsets = _values(data, order, entry)
        lengths = _values(data, order, entries.get(lengths_tag))
        if sum(min(length, len(data)) for length in lengths) > _MAX_OVERLAP * len(data):
            raise too_complex("strips or tiles that lie on each other")
        width, height, compression = (
            (*_values(data, order, entries.get(tag)), 0)[0]
            for tag in (_WIDTH, _HEIGHT, _COMPRESSION)
        )
        if compression in _JPEG and offsets:
            pixels = width * height // len(offsets) + 1
            scans = sum(
                min(data.count(b"\xff\xda", offset, offset + length), _MAX_SCANS)
                for offset, length in zip(offsets, lengths, strict=False)
            )
            if scans * pixels > MAX_SCANNED_PIXELS:
                raise too_complex(f"{scans} scans in {len(offsets)} strips or tiles")
