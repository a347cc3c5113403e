from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest
from backports import zstd

from imgsim_assets.download.http.content_encoding import unpack
from imgsim_assets.download.status import FetchError
from imgsim_assets_tests.support.faulty_server import FaultyServer, response
from imgsim_assets_tests.support.http_client import fetch, status_of
from imgsim_assets_tests.support.images import jpeg

IMAGE = jpeg(1)
LIMIT = 1_000_000
BOMB = bytes(50_000_000)


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    "names",
    [
        ["UTF-8"],
        ["none"],
        ["binary"],
        ["identity, identity"],
        [""],
        [" , "],
        ["aws-chunked"],
        ["compress"],
        ["image/jpeg"],
        ["identity", "none"],
    ],
)
def test_name_that_is_no_compression_is_ignored(names: list[str]) -> None:
    assert unpack(IMAGE, names, LIMIT) == IMAGE


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_compression_that_the_bytes_contradict_is_ignored(name: str) -> None:
    assert unpack(IMAGE, [name], LIMIT) == IMAGE


@pytest.mark.parametrize(
    ("names", "packed"),
    [
        (["gzip"], gzip.compress(IMAGE)),
        (["GZIP"], gzip.compress(IMAGE)),
        (["x-gzip"], gzip.compress(IMAGE)),
        (["gzip, utf-8"], gzip.compress(IMAGE)),
        (["deflate"], zlib.compress(IMAGE)),
        (["deflate"], raw_deflate(IMAGE)),
        (["br"], brotli.compress(IMAGE)),
        (["zstd"], zstd.compress(IMAGE)),
        (["gzip, gzip"], gzip.compress(gzip.compress(IMAGE))),
        (["gzip", "gzip"], gzip.compress(gzip.compress(IMAGE))),
        (["gzip, gzip"], gzip.compress(IMAGE)),
        (["deflate, br"], brotli.compress(zlib.compress(IMAGE))),
        (["gzip"], gzip.compress(IMAGE[:99]) + gzip.compress(IMAGE[99:])),
        (["gzip"], gzip.compress(IMAGE) + b"bytes behind it"),
    ],
)
def test_compressed_body_is_unpacked(names: list[str], packed: bytes) -> None:
    assert unpack(packed, names, LIMIT) == IMAGE


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("gzip", gzip.compress(BOMB)),
        ("deflate", zlib.compress(BOMB)),
        ("deflate", raw_deflate(BOMB)),
        ("br", brotli.compress(BOMB, quality=1)),
        ("zstd", zstd.compress(BOMB)),
        ("gzip, gzip", gzip.compress(gzip.compress(BOMB))),
        ("gzip", b"".join(gzip.compress(BOMB[:300_000]) for _ in range(4))),
    ],
)
def test_bomb_is_too_large_and_is_not_unpacked(name: str, bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match="too_large"):
            unpack(bomb, [name], LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    ("name", "packed", "status"),
    [
        ("gzip", gzip.compress(IMAGE)[:-50], "truncated_body"),
        ("deflate", zlib.compress(IMAGE)[:-50], "truncated_body"),
        ("br", brotli.compress(IMAGE)[:-50], "truncated_body"),
        ("zstd", zstd.compress(IMAGE)[:-50], "truncated_body"),
        ("gzip", gzip.compress(IMAGE)[:40] + bytes(100), "unexpected_encoding"),
        ("zstd", zstd.compress(IMAGE)[:4] + b"\xff" * 100, "unexpected_encoding"),
        (", ".join(["gzip"] * 6), gzip.compress(IMAGE), "unexpected_encoding"),
    ],
)
def test_damaged_compressed_body_has_a_status(name: str, packed: bytes, status: str) -> None:
    with pytest.raises(FetchError) as failed:
        unpack(packed, [name], LIMIT)
    assert failed.value.status == status


def test_limit_is_inclusive() -> None:
    assert unpack(gzip.compress(bytes(LIMIT)), ["gzip"], LIMIT) == bytes(LIMIT)


def test_client_unpacks_within_its_limit() -> None:
    with FaultyServer(response(gzip.compress(IMAGE), b"Content-Encoding: gzip")) as server:
        assert fetch(server.url()).data == IMAGE
    with FaultyServer(response(gzip.compress(BOMB), b"Content-Encoding: gzip")) as server:
        assert status_of(server.url(), max_megabytes=1) == "too_large"
