"""Files that are difficult to decode: wrong headers, malformed metadata, other color spaces."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageCms

_ORIENTATION = 0x0112

# By EXIF orientation, how the pixels of an upright image are stored.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

# The primaries of sRGB and Display P3 as XYZ under D50, a column each.
_SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))
_P3 = ((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))


def stored_with_exif(image: Image.Image, orientation: int) -> tuple[Image.Image, bytes]:
    """An image as stored under an EXIF orientation, and the EXIF bytes."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    stored = image.transpose(_STORED[orientation]) if orientation in _STORED else image
    return stored, exif.tobytes()


def png_of(width: int, height: int, *, bits: int = 8, color: int = 2) -> bytes:
    """A PNG whose header declares a size, followed by a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, body)
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    )


def gif_of(width: int, height: int) -> bytes:
    """A GIF with a screen of a size and one frame of one pixel."""
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;"
    )


def bmp_of(width: int, height: int) -> bytes:
    """A BMP of a size, without pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def ppm_of(width: int, height: int) -> bytes:
    """A PPM of a size, without pixels."""
    return f"P6\n{width} {height}\n255\n".encode()


def with_segment(jpeg: bytes, payload: bytes) -> bytes:
    """A JPEG with an EXIF segment of these bytes."""
    body = b"Exif\0\0" + payload
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def exif_of(entries: Sequence[tuple[int, int, int, bytes]]) -> bytes:
    """EXIF of entries (tag, type, count, value of at most four bytes), in tag order."""
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return body + bytes(4)


def wide_gamut_profile() -> bytes:
    """ImageCms' sRGB profile with the primaries of Display P3 and another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    (count,) = struct.unpack_from(">I", profile, 128)
    for number in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if tag in (b"rXYZ", b"gXYZ", b"bXYZ"):
            column = b"rgb".index(tag[:1])
            xyz = [round(row[column] * 65536) for row in _P3]
            struct.pack_into(">iii", profile, offset + 8, *xyz)
    return bytes(profile)


def srgb_of_wide(color: tuple[int, int, int]) -> tuple[int, ...]:
    """A color of `wide_gamut_profile` in sRGB, computed from the definition of both."""
    encoded = np.array(color) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = (np.linalg.inv(np.array(_SRGB)) @ np.array(_P3) @ linear).clip(0, 1)
    back = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return tuple(round(float(value) * 255) for value in back)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return _chunk(kind, body)


def with_chunks(png: bytes, chunks: bytes, *, behind_pixels: bool = False) -> bytes:
    """A PNG with more chunks behind its header, or before its end."""
    at = len(png) - 12 if behind_pixels else 33
    return png[:at] + chunks + png[at:]


def deep_png(rows: bytes, size: tuple[int, int], bits: int, color: int, key: bytes) -> bytes:
    """A PNG of unpacked rows, each behind its filter, with a transparent color."""
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG of a size with many empty scans."""
    tables = jpeg_segment(0xDB, b"\0" + b"\1" * 64)
    tables += jpeg_segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0")
    tables += jpeg_segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    frame = jpeg_segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    first = jpeg_segment(0xDA, b"\1\1\0\0\0\0")
    scan = jpeg_segment(0xDA, b"\1\1\0\1\x3f\0")
    return b"\xff\xd8" + tables + frame + first + scan * scans + b"\xff\xd9"
