"""JPEG: the segments that the pixels need, and the number of scans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from imgsim_assets.images.errors import ImageError, cut_header, too_complex

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
_SCAN, _END = 0xDA, 0xD9
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_HIERARCHICAL = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})
_LOSSLESS = frozenset({0xC3, 0xCB})
# A marker that is not stuffing, a restart or a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_SEGMENTS = 2**16
_MAX_PROFILE_BYTES = 4 * 2**20
# Each scan may visit each block of 64 pixels; the usual progressive file has ten scans.
MAX_SCANS = 1000
MAX_SCANNED_PIXELS = 2**31
# The header of a scan of one component.
_MIN_SCAN_BYTES = 10


class _Frame(NamedTuple):
    marker: int
    pixels: int
    components: int


def pixel_segments(data: bytes) -> bytes:
    """The file with tables, frame, color transform, profile and EXIF, and all from the scans on.

    Raises:
        ImageError: truncated, unsupported_format or too_complex.
    """
    kept, profile, segments = [data[:2]], [], 0
    frame: _Frame | None = None
    has_exif = False
    at = 2
    while True:
        at, marker = _next_marker(data, at)
        if marker in (None, _END):
            raise cut_header("JPEG")
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or at + 4 > len(data):
            raise cut_header("JPEG")
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise too_complex(f"more than {_MAX_SEGMENTS} segments")
        if marker == _SCAN:
            break
        segment, payload = data[at:end], data[at + 4 : at + 18]
        if marker in _FRAMES:
            frame = frame or _frame(marker, data[at + 4 : end])
            kept.append(segment)
        elif marker in _TABLES or (marker == 0xEE and payload.startswith(b"Adobe")):
            kept.append(segment)
        elif marker == 0xE0 and payload.startswith(b"JFIF\0"):
            kept.append(b"\xff\xe0\0\x10" + payload[:12].ljust(12, b"\0") + b"\0\0")
        elif marker == 0xE1 and payload.startswith(b"Exif\0\0") and not has_exif:
            has_exif = True
            kept.append(segment)
        elif marker == 0xE2 and payload.startswith(b"ICC_PROFILE\0"):
            profile.append(segment)
        elif marker == 0xF7:
            raise ImageError("unsupported_format", "JPEG-LS")
        at = end
    if frame is None:
        raise ImageError("not_image", "a JPEG without a frame")
    if sum(map(len, profile)) <= _MAX_PROFILE_BYTES:
        kept[1:1] = profile  # Pillow reads the profile where the frame begins
    if _has_more_scans(frame, data[at + 4 : at + 5]):
        check_scans(data, at, frame.pixels)
    return b"".join([*kept, data[at:]])


def check_scans(data: bytes, at: int, pixels: int) -> None:
    """Raise ImageError for too many scans, from the marker of the first one on."""
    limit = min(MAX_SCANS, max(MAX_SCANNED_PIXELS // max(pixels, 1), 1))
    if len(data) - at < limit * _MIN_SCAN_BYTES:
        return
    scans = 0
    marker: int | None = _SCAN
    while marker is not None and marker != _END:
        if marker == _SCAN:
            scans += 1
            if scans > limit:
                raise too_complex(f"more than {limit} scans of {pixels} pixels")
        found = _MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        at, marker = (found.start(), data[found.start() + 1]) if found else (at, None)


def has_pixels(data: bytes) -> bool:
    """Whether something follows the header of the first scan."""
    return any(marker == _SCAN and end < len(data) for marker, _, end in _segments(data))


def has_all_scans(data: bytes) -> bool:
    """Whether the scans have every coefficient of every component, to its last bit."""
    is_progressive = False
    missing: dict[int, set[int]] = {}
    for marker, start, end in _segments(data):
        payload = data[start:end]
        if marker in _FRAMES:
            is_progressive = marker in _PROGRESSIVE
            missing = {component: set(range(64)) for component in payload[6::3]}
        elif marker == _SCAN and len(payload) == 4 + 2 * payload[0]:
            first, last, bits = payload[-3:]
            for component in payload[1:-3:2]:
                if not is_progressive:
                    missing.pop(component, None)
                elif not bits & 15:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(is_progressive or not missing) and not any(missing.values())


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the payload of each segment, in the scans as well."""
    at, marker = _next_marker(data, 2)
    while marker is not None and marker != _END:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data):
            return
        yield marker, at + 4, end
        at, marker = _next_marker(data, end)


def _next_marker(data: bytes, at: int) -> tuple[int, int | None]:
    """Position and code of the next marker, behind fill bytes and garbage."""
    if data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"", b"\xff", b"\0"):
        return at, data[at + 1]
    found = _MARKER.search(data, at)
    return (found.start(), data[found.start() + 1]) if found else (at, None)


def _frame(marker: int, payload: bytes) -> _Frame:
    if len(payload) < 6:
        raise cut_header("JPEG")
    if marker in _HIERARCHICAL:
        raise ImageError("unsupported_format", "hierarchical JPEG")
    if payload[0] != 8:
        raise ImageError("unsupported_format", f"JPEG with {payload[0]} bits per channel")
    if marker in _LOSSLESS:
        raise ImageError("unsupported_format", "lossless JPEG")
    height, width = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
    return _Frame(marker, width * height, payload[5])


def _has_more_scans(frame: _Frame, components: bytes) -> bool:
    """Whether the decoder reads on after the first scan, which has these components."""
    return frame.marker in _PROGRESSIVE or components != bytes([frame.components])
