"""PNG: the chunks that the pixels need; of an animation, those of its first frame."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from imgsim_assets.images.errors import cut_header, too_complex

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Critical chunks keep their checksum, so that damage in them is noticed.
_CRITICAL = (b"IHDR", b"PLTE")
# Other chunks count only with a correct checksum.
_OPTIONAL = (b"tRNS", b"iCCP", b"eXIf")
_KEPT = frozenset({*_CRITICAL, *_OPTIONAL, b"IDAT", b"IEND", b"acTL", b"fcTL"})
_MAX_CHUNKS = 2**18
_MAX_PROFILE_BYTES = 2**20
_MAX_EXIF_BYTES = 2**16
# Adam7: left, top and steps of each pass.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


class Canvas(NamedTuple):
    """Where the frame of an animation lies in the image: size of the image, and left top."""

    size: tuple[int, int]
    corner: tuple[int, int]


class _Chunk(NamedTuple):
    kind: bytes
    body: bytes
    crc: bytes

    @property
    def is_intact(self) -> bool:
        return zlib.crc32(self.kind + self.body).to_bytes(4, "big") == self.crc

    @property
    def raw(self) -> bytes:
        return len(self.body).to_bytes(4, "big") + self.kind + self.body + self.crc


def pixel_chunks(data: bytes) -> tuple[bytes, Canvas | None]:
    """The file without metadata, its pixels in one chunk, and the place of a smaller frame.

    A broken checksum matters only in chunks that every decoder needs.

    Raises:
        ImageError: truncated or too_complex.
    """
    chunks = _read(data)
    frame = _first_frame(chunks)
    pixels = [chunk.body for chunk in chunks if chunk.kind == b"IDAT"]
    if not pixels:
        raise cut_header("PNG")
    canvas = None
    if frame is not None:
        control, pixels = frame
        canvas = _resize(chunks, control)
    seen: set[bytes] = set()
    kept = [_SIGNATURE]
    for chunk in chunks:
        is_kept = chunk.kind in _CRITICAL or (chunk.kind in _OPTIONAL and _is_usable(chunk))
        if is_kept and chunk.kind not in seen:
            seen.add(chunk.kind)
            kept.append(chunk.raw)
    has_end = chunks[-1].kind == b"IEND"
    end = [_encoded(b"IEND", b"")] if has_end else []
    # Without its end the file is cut: the decoder says whether pixels are missing.
    return b"".join([*kept, _encoded(b"IDAT", b"".join(pixels)), *end]), canvas


def filled(data: bytes) -> bytes | None:
    """The file with black in place of the pixels that it lacks; None where it has none.

    Raises:
        ImageError: truncated or too_complex.
    """
    chunks = _read(pixel_chunks(data)[0])
    header = next((chunk.body for chunk in chunks if chunk.kind == b"IHDR"), b"")
    packed = b"".join(chunk.body for chunk in chunks if chunk.kind == b"IDAT")
    if len(header) != 13:
        return None
    size = _unpacked_bytes(header)
    try:
        pixels = zlib.decompressobj().decompress(packed, size)
    except zlib.error:
        return None
    if not pixels:
        return None
    kept = [chunk.raw for chunk in chunks if chunk.kind not in (b"IDAT", b"IEND")]
    body = zlib.compress(pixels.ljust(size, b"\0"), 1)
    return b"".join([_SIGNATURE, *kept, _encoded(b"IDAT", body), _encoded(b"IEND", b"")])


def _unpacked_bytes(header: bytes) -> int:
    """Bytes of the rows of all passes, each with the byte of its filter."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits *= {2: 3, 4: 2, 6: 4}.get(color, 1)
    total = 0
    for left, top, step_x, step_y in _PASSES if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _read(data: bytes) -> list[_Chunk]:
    """All chunks that may matter, up to the end."""
    chunks: list[_Chunk] = []
    for chunk in _chunks(data):
        # Of an animation, the pixels behind the control of a frame.
        follows = bool(chunks) and chunks[-1].kind in (b"fcTL", b"fdAT")
        if chunk.kind in _KEPT or (chunk.kind == b"fdAT" and follows):
            chunks.append(chunk)
    if not chunks:
        raise cut_header("PNG")
    return chunks


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 8 + length
        if end > len(data) and kind != b"IDAT":
            return
        yield _Chunk(kind, data[at + 8 : end], data[end : end + 4])
        if kind == b"IEND":
            return
        at = end + 4
    raise too_complex(f"more than {_MAX_CHUNKS} chunks")


def _first_frame(chunks: list[_Chunk]) -> tuple[bytes, list[bytes]] | None:
    """The control and pixels of an animation's first frame, if the main image is not it."""
    kinds = [chunk.kind for chunk in chunks]
    if b"acTL" not in kinds or b"fcTL" not in kinds or b"IDAT" not in kinds:
        return None
    control = kinds.index(b"fcTL")
    if control < kinds.index(b"IDAT") or len(chunks[control].body) != 26:
        return None
    pixels = []
    for chunk in chunks[control + 1 :]:
        if chunk.kind != b"fdAT":
            break
        pixels.append(chunk.body[4:])
    return (chunks[control].body, pixels) if pixels else None


def _resize(chunks: list[_Chunk], control: bytes) -> Canvas | None:
    """Give the header the size of the frame; returns its place in a larger image."""
    width, height, left, top = struct.unpack(">4I", control[4:20])
    header = next((chunk for chunk in chunks if chunk.kind == b"IHDR"), None)
    if header is None or len(header.body) != 13 or not header.is_intact:
        return None
    size = struct.unpack(">2I", header.body[:8])
    if left + width > size[0] or top + height > size[1]:
        raise cut_header("PNG")
    if size == (width, height):
        return None
    body = struct.pack(">2I", width, height) + header.body[8:]
    crc = zlib.crc32(b"IHDR" + body).to_bytes(4, "big")
    chunks[chunks.index(header)] = _Chunk(b"IHDR", body, crc)
    return Canvas(size, (left, top))


def _is_usable(chunk: _Chunk) -> bool:
    if chunk.kind == b"iCCP":
        return chunk.is_intact and _is_small_profile(chunk.body)
    return len(chunk.body) <= _MAX_EXIF_BYTES and chunk.is_intact


def _is_small_profile(body: bytes) -> bool:
    """Whether a color profile unpacks to a bounded size."""
    name_end = body.find(b"\0", 0, 80)
    if name_end < 0:
        return False
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(body[name_end + 2 :], _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacker.eof


def _encoded(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + crc
