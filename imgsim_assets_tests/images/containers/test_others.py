"""GIF, WebP, TIFF, ICO and JPEG 2000."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import Header, read_header
from imgsim_assets_tests.support.images import encoded, make_image
from imgsim_assets_tests.support.malformed_images import stored_with_exif

ORIGINAL = make_image(1)
LIMIT = 50_000_000


def refusal(data: bytes) -> str:
    started = time.process_time()
    with pytest.raises(ImageError) as refused:
        decode(data, LIMIT)
    assert time.process_time() - started < 2
    return refused.value.status


def gif_with(blocks: bytes) -> bytes:
    data = encoded(ORIGINAL.quantize(64), "GIF")
    at = 13 + (3 << ((data[10] & 7) + 1))
    return data[:at] + blocks + data[at:]


@pytest.mark.parametrize(
    "blocks",
    [
        b"!\xfe" + (b"\xff" + b"c" * 255) * 8000 + b"\0",
        b"!\xfe\1c\0" * 20_000,
        b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0",
    ],
    ids=["long comment", "many comments", "application"],
)
def test_extensions_of_gif_change_no_pixel(blocks: bytes) -> None:
    assert decode(gif_with(blocks)).tobytes() == decode(gif_with(b"")).tobytes()


def test_first_of_many_gif_frames_is_shown() -> None:
    data = gif_with(b"")
    frames = data[13 + (3 << ((data[10] & 7) + 1)) : -1]

    assert decode(data[:-1] + frames * 1000 + b";").tobytes() == decode(data).tobytes()


def test_gif_without_frame_is_truncated() -> None:
    assert refusal(gif_with(b"")[:300]) == "truncated"


def test_metadata_of_webp_changes_no_pixel() -> None:
    stored, exif = stored_with_exif(ORIGINAL, 6)
    options = {"lossless": True, "xmp": b"x" * 3_000_000}

    assert decode(encoded(stored, "WEBP", exif=exif, **options)).tobytes() == ORIGINAL.tobytes()
    bulky = encoded(ORIGINAL, "WEBP", exif=b"Exif\0\0" + b"x" * 3_000_000, **options)
    assert decode(bulky).tobytes() == ORIGINAL.tobytes()


def test_first_frame_of_webp_animation_is_shown() -> None:
    frames = [make_image(seed) for seed in range(2, 30)]
    data = encoded(ORIGINAL, "WEBP", save_all=True, append_images=frames, lossless=True)

    assert decode(data).tobytes() == ORIGINAL.tobytes()


@pytest.mark.parametrize("big", [False, True])
def test_directories_and_tags_of_tiff_change_no_pixel(big: bool) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = b"x" * 50_000
    tags[37510] = b"y" * 50_000
    pages = [Image.new("L", (1, 1))] * 20
    options = {"save_all": True, "append_images": pages, "tiffinfo": tags, "big_tiff": big}

    data = encoded(ORIGINAL, "TIFF", **options)

    assert data[2:4] == (b"+\0" if big else b"*\0")
    assert decode(data).tobytes() == ORIGINAL.tobytes()


def tiff_of(*entries: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(200)


@pytest.mark.parametrize(
    "data",
    [
        tiff_of((254, 4, 1, 1), (330, 4, 1, 100)),
        tiff_of((50706, 1, 4, 1)),
        tiff_of((262, 3, 1, 32803)),
        b"II*\0\x10\0\0\0CR\2\0" + bytes(80),
    ],
    ids=["preview", "DNG", "mosaic", "CR2"],
)
def test_raw_file_of_a_camera_is_named(data: bytes) -> None:
    with pytest.raises(ImageError, match="unsupported_format: camera RAW"):
        read_header(data, LIMIT)


def test_strips_that_lie_on_each_other_are_refused() -> None:
    data = bytearray(encoded(ORIGINAL, "TIFF", compression="tiff_lzw", strip_size=480))
    order = TiffImagePlugin.TiffImageFile(io.BytesIO(bytes(data))).tag_v2
    for tag, value in ((273, 8), (279, len(data) - 8)):
        numbers = struct.pack(f"<{len(order[tag])}I", *order[tag])
        short = struct.pack(f"<{len(order[tag])}H", *(n & 0xFFFF for n in order[tag]))
        found = numbers if numbers in data else short
        letter = "I" if found is numbers else "H"
        at = data.index(found)
        data[at : at + len(found)] = struct.pack(
            f"<{len(order[tag])}{letter}", *[value] * len(order[tag])
        )

    assert refusal(bytes(data)) == "too_complex"


def test_tiff_that_is_cut_before_its_directory_is_truncated() -> None:
    assert refusal(encoded(ORIGINAL, "TIFF")[:40]) == "truncated"


@pytest.mark.parametrize("options", [{}, {"bitmap_format": "bmp"}], ids=["PNG", "bitmap"])
def test_largest_icon_is_shown(options: dict[str, Any]) -> None:
    original = make_image(1, (64, 64))
    data = encoded(original, "ICO", sizes=[(16, 16), (64, 64), (32, 32)], **options)

    assert read_header(data, LIMIT) == Header("ICO", 64, 64)
    assert decode(data).tobytes() == original.tobytes()
    cursor = data[:2] + b"\2" + data[3:]
    assert decode(cursor).tobytes() == original.tobytes()


def test_cut_icon_is_truncated() -> None:
    assert refusal(encoded(make_image(1, (64, 64)), "ICO", sizes=[(64, 64)])[:80]) == "truncated"


@pytest.mark.parametrize(
    "options",
    [{"codeblock_size": (4, 4)}, {"tile_size": (8, 8)}, {"precinct_size": (8, 8)}],
    ids=["blocks", "tiles", "precincts"],
)
@pytest.mark.parametrize("no_jp2", [False, True])
def test_tiny_blocks_of_jpeg_2000_are_refused(options: dict[str, Any], no_jp2: bool) -> None:
    large = make_image(1, (1200, 1200))

    assert refusal(encoded(large, "JPEG2000", no_jp2=no_jp2, **options)) == "too_complex"
    usual = encoded(ORIGINAL, "JPEG2000", no_jp2=no_jp2, tile_size=(64, 64))
    assert decode(usual).size == ORIGINAL.size


@pytest.mark.parametrize("end", [14, 60, 100])
def test_jpeg_2000_that_is_cut_in_its_header_is_truncated(end: int) -> None:
    assert refusal(encoded(ORIGINAL, "JPEG2000")[:end]) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"P6 3000 3000 254\n" + bytes(27_000_000),
        b"P3 3000 3000 255\n" + b"1 " * 9_000_000,
        b"P2 10 10 255\n" + b"#" * 19_000_000,
    ],
    ids=["other maximum", "plain", "comment"],
)
def test_values_that_only_a_slow_decoder_reads_are_limited(data: bytes) -> None:
    assert refusal(data) == "too_complex"
