"""JPEG 2000: the memory that its blocks and packets would take."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from imgsim_assets.images.errors import cut_header, too_complex

_CODESTREAM = b"\xff\x4f"
_SIZE, _STYLE, _COMPONENT_STYLE, _TILE, _DATA = 0x51, 0x52, 0x53, 0x90, 0x93
# The decoder takes some kilobytes for each block of coefficients, and visits each packet.
_MAX_BLOCKS = 2**17
_MAX_PACKETS = 2**22
_MAX_MARKERS = 2**18
_MIN_BODY = {_SIZE: 36, _STYLE: 10, _COMPONENT_STYLE: 8, _TILE: 8}


def check_work(data: bytes) -> None:
    """Refuse a file whose blocks or packets take far more than its pixels.

    Raises:
        ImageError: truncated or too_complex.
    """
    pixels = tiles = components = resolutions = 0
    layers, blocks_per_pixel, packets_per_pixel = 1, 0.0, 0.0  # the most of any component and tile
    for marker, body in _markers(data, _codestream(data)):
        if len(body) < _MIN_BODY.get(marker, 0):
            raise cut_header("JPEG2000")
        if marker == _SIZE:
            right, bottom, left, top, width, height, tile_left, tile_top, components = (
                struct.unpack(">8IH", body[2:36])
            )
            pixels = max(right - left, 0) * max(bottom - top, 0)
            if not width or not height:
                raise cut_header("JPEG2000")
            tiles = -(-(right - tile_left) // width) * -(-(bottom - tile_top) // height)
        elif marker in (_STYLE, _COMPONENT_STYLE):
            flags, style = body[0], body[5:]
            if marker == _STYLE:
                layers = max(layers, int.from_bytes(body[2:4], "big"))
            else:
                skipped = 1 if components < 257 else 2
                flags, style = body[skipped], body[skipped + 1 :]
            blocks, packets = _per_pixel(style, has_precincts=bool(flags & 1))
            resolutions = max(resolutions, style[0] + 1)
            blocks_per_pixel = max(blocks_per_pixel, blocks)
            packets_per_pixel = max(packets_per_pixel, packets)
    parts = tiles * components * resolutions
    all_blocks = int(components * pixels * blocks_per_pixel) + 3 * parts
    all_packets = layers * (int(components * pixels * packets_per_pixel) + parts)
    if all_blocks > _MAX_BLOCKS or all_packets > _MAX_PACKETS:
        raise too_complex(f"{all_blocks} blocks and {all_packets} packets for {pixels} pixels")


def _per_pixel(style: bytes, *, has_precincts: bool) -> tuple[float, float]:
    """Blocks and packets for each pixel of a component, over its resolutions."""
    levels = style[0]
    sizes = [(size & 15, size >> 4) for size in style[5 : 6 + levels]] if has_precincts else []
    sizes += [(15, 15)] * (levels + 1 - len(sizes))
    blocks = packets = 0.0
    for resolution, size in enumerate(sizes):
        area = 0.25 ** (levels - resolution)
        band = [max(edge - (resolution > 0), 0) for edge in size]
        blocks += area / 2 ** (min(style[1] + 2, band[0]) + min(style[2] + 2, band[1]))
        packets += area / 2 ** sum(size)
    return blocks, packets


def _codestream(data: bytes) -> int:
    """Where the codestream begins: at once, or in a box."""
    if data.startswith(_CODESTREAM):
        return 0
    at = 0
    for _ in range(_MAX_MARKERS):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        header = 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind == b"jp2c":
            return at + header
        if length < header or at + length > len(data):
            break
        at += length
    raise cut_header("JPEG2000")


def _markers(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The markers of the main header and of the headers of all tiles, with their bodies."""
    at += 2
    tile_end = 0
    for _ in range(_MAX_MARKERS):
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker == _DATA:
            at = tile_end
            continue
        if data[at] != 0xFF:
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == _TILE:
            size = int.from_bytes(body[2:6], "big")
            tile_end = at + size if size >= 14 else len(data)
        yield marker, body
        at += 2 + length
    raise too_complex(f"more than {_MAX_MARKERS} markers")
