"""WebP: the chunks that the pixels of the first frame need."""

from __future__ import annotations

from imgsim_assets.images.errors import too_complex

_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM")
_PROFILE, _EXIF = b"ICCP", b"EXIF"
_MAX_BYTES = {_PROFILE: 2**20, _EXIF: 2**16}
# The flags of VP8X that announce these chunks.
_FLAGS = {_PROFILE: 0x20, _EXIF: 0x08, b"XMP ": 0x04}
_MAX_CHUNKS = 2**16


def pixel_chunks(data: bytes) -> bytes:
    """The file with its first frame, profile and EXIF; a file that is cut stays as it is.

    Raises:
        ImageError: too_complex.
    """
    kept: list[tuple[bytes, bytes]] = []
    kinds: set[bytes] = set()
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = count = 12
    while at + 8 <= end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            return data
        count += 1
        if count > _MAX_CHUNKS:
            raise too_complex(f"more than {_MAX_CHUNKS} chunks")
        is_small = length <= _MAX_BYTES.get(kind, -1)
        if kind not in kinds and (kind in _PIXELS or kind in (b"VP8X", b"ANMF") or is_small):
            kinds.add(kind)
            kept.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + (length & 1)
    if at < end or not kinds:
        return data
    body = b"WEBP" + b"".join(_encoded(kind, part, kinds) for kind, part in kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _encoded(kind: bytes, body: bytes, kinds: set[bytes]) -> bytes:
    if kind == b"VP8X" and body:
        dropped = sum(flag for name, flag in _FLAGS.items() if name not in kinds)
        body = bytes([body[0] & ~dropped]) + body[1:]
    return kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) & 1)
