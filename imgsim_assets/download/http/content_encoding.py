"""Unpacks bodies that a server compressed although no compression was requested."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping

from imgsim_assets.download.status import FetchError

# A server that packs a body more often than this is not one that browsers can show either.
_MAX_LAYERS = 5
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_IMAGE_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
# 8 MiB, as in browsers: the memory that a frame may ask for.
_MAX_ZSTD_WINDOW_LOG = 23


def unpack(data: bytes, headers: Iterable[str], limit: int) -> bytes:
    """The body without the compression that its Content-Encoding headers name.

    The bytes decide: a name that is no compression (`UTF-8`, `none`) and a name that the bytes
    contradict are ignored.

    Args:
        data: the body as it was sent.
        headers: the values of the Content-Encoding headers, in their order.
        limit: the largest body, in bytes, of every step.

    Raises:
        FetchError: too_large, truncated_body, or unexpected_encoding for damaged data and for a
            compression whose package is not installed.
    """
    codings = [coding.strip().lower() for header in headers for coding in header.split(",")]
    layers = [coding for coding in codings if coding in _CODINGS]
    if len(layers) > _MAX_LAYERS:
        raise FetchError("unexpected_encoding", f"the body is compressed {len(layers)} times")
    for coding in reversed(layers):
        data = _unpack_layer(data, coding, limit)
    return data


def _unpack_layer(data: bytes, coding: str, limit: int) -> bytes:
    unpack, accepts = _CODINGS[coding]
    if not accepts(data):
        return data
    try:
        unpacked = unpack(data, limit + 1)
    except _IncompleteError:
        raise FetchError("truncated_body", f"the {coding} body is cut short") from None
    except ImportError:
        detail = f"the body is compressed by {coding}; install 'imgsim_assets[compression]'"
        raise FetchError("unexpected_encoding", detail) from None
    except ValueError as error:
        if accepts is _is_no_image:  # a wrong name for other bytes
            return data
        detail = f"the {coding} body is damaged: {error}"
        raise FetchError("unexpected_encoding", detail) from None
    if len(unpacked) > limit:
        raise FetchError("too_large", f"more than {limit} bytes behind {coding}")
    return unpacked


class _IncompleteError(Exception):
    """The compressed data ends early."""


def _unpack_gzip(data: bytes, most: int) -> bytes:
    """All members of a gzip file; bytes behind the last one are ignored, as in browsers."""
    parts = []
    while data.startswith(_GZIP_MAGIC) and most > 0:
        part, data = _inflate(data, most, 16 + zlib.MAX_WBITS)
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _unpack_deflate(data: bytes, most: int) -> bytes:
    """zlib, or raw deflate, which some servers send under the same name."""
    is_zlib = len(data) > 1 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _inflate(data, most, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)[0]


def _inflate(data: bytes, most: int, wbits: int) -> tuple[bytes, bytes]:
    """At most `most` bytes of one stream, and the bytes behind it."""
    stream = zlib.decompressobj(wbits)
    try:
        unpacked = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof and len(unpacked) < most:
        raise _IncompleteError
    return unpacked, stream.unused_data


def _unpack_brotli(data: bytes, most: int) -> bytes:
    import brotli

    stream = brotli.Decompressor()
    parts, size = [], 0
    try:
        while size < most and not stream.is_finished():
            part = stream.process(data, output_buffer_limit=most - size)
            if not part and not data:
                raise _IncompleteError
            parts.append(part)
            size += len(part)
            data = b""
    except brotli.error as error:
        raise ValueError(str(error)) from None
    return b"".join(parts)


def _unpack_zstd(data: bytes, most: int) -> bytes:
    try:
        from compression import zstd
    except ImportError:  # Python before 3.14
        from backports import zstd

    window = {zstd.DecompressionParameter.window_log_max: _MAX_ZSTD_WINDOW_LOG}
    stream = zstd.ZstdDecompressor(options=window)
    try:
        unpacked: bytes = stream.decompress(data, most)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None
    if not stream.eof and len(unpacked) < most:
        raise _IncompleteError
    return unpacked


def _is_gzip(data: bytes) -> bool:
    return data.startswith(_GZIP_MAGIC)


def _is_zstd(data: bytes) -> bool:
    return data.startswith(_ZSTD_MAGIC)


def _is_no_image(data: bytes) -> bool:
    """Whether a body may be in a format without a signature of its own, as it is no image."""
    return not data.startswith(_IMAGE_MAGICS) and data[4:8] not in (b"ftyp", b"jP  ", b"JXL ")


_CODINGS: Mapping[str, tuple[Callable[[bytes, int], bytes], Callable[[bytes], bool]]] = {
    "gzip": (_unpack_gzip, _is_gzip),
    "x-gzip": (_unpack_gzip, _is_gzip),
    "deflate": (_unpack_deflate, _is_no_image),
    "br": (_unpack_brotli, _is_no_image),
    "zstd": (_unpack_zstd, _is_zstd),
}
