from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import Header, read_header
from imgsim_assets.images.repair import TRUNCATED
from imgsim_assets_tests.support.images import encoded, make_image
from imgsim_assets_tests.support.malformed_images import deep_png, png_chunk, with_chunks

ORIGINAL = make_image(1)
PNG = encoded(ORIGINAL, "PNG")
BULKY = zlib.compress(bytes(3_000_000))
XMP = b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
WHITE = [255, 255, 255]


def body_of(png: bytes) -> bytes:
    at = png.index(b"IDAT")
    return png[at + 4 : at + 4 + int.from_bytes(png[at - 4 : at], "big")]


@pytest.mark.parametrize("behind_pixels", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"zTXt", b"a\0\0" + BULKY),
        png_chunk(b"iTXt", b"a\0\1\0\0\0" + BULKY),
        png_chunk(b"zTXt", b"a\0\0" + BULKY) * 30,
        png_chunk(b"iCCP", b"a\0\0" + BULKY),
        png_chunk(b"sPLT", b"a\0" + bytes(2_000_000)),
        png_chunk(b"teSt", b"") * 20_000,
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        png_chunk(b"pHYs", bytes(9))[:-4] + b"sum!",
        png_chunk(b"tRNS", bytes(6))[:-4] + b"sum!",
    ],
    ids=[
        *("zTXt", "iTXt", "many zTXt", "large profile", "palettes", "tiny", "XMP orientation"),
        *("checksum", "checksum of transparency"),
    ],
)
def test_metadata_changes_no_pixel(chunks: bytes, behind_pixels: bool) -> None:
    data = with_chunks(PNG, chunks, behind_pixels=behind_pixels)

    assert read_header(data, 50_000_000) == Header("PNG", 160, 120)
    assert decode(data).tobytes() == ORIGINAL.tobytes()


def test_pixels_in_tiny_chunks_decode() -> None:
    tiny = b"".join(png_chunk(b"IDAT", bytes([byte])) for byte in body_of(PNG))

    assert decode(PNG[:33] + tiny + png_chunk(b"IEND", b"")).tobytes() == ORIGINAL.tobytes()


def test_broken_checksum_of_the_header_is_noticed() -> None:
    with pytest.raises(ImageError, match="not_image: a PNG file with a damaged header"):
        decode(PNG[:29] + b"sum!" + PNG[33:])


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(ImageError, match="too_complex"):
        decode(with_chunks(PNG, png_chunk(b"teSt", b"") * 270_000))


@pytest.mark.parametrize("interlaced", [0, 1])
def test_truncated_png_is_decoded_where_it_is_accepted(interlaced: int) -> None:
    data = encoded(ORIGINAL, "PNG")[:-400]
    if interlaced:
        rows = zlib.compress(bytes(207), level=0)
        header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
        parts = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows)[:-60]
        data = b"\x89PNG\r\n\x1a\n" + parts

    found = decode(data, accept_truncated=True)

    assert found.info[TRUNCATED] is True
    with pytest.raises(ImageError, match="truncated"):
        decode(data[:-4])


# ---- transparent colors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "color", "row", "key", "expected"),
    [
        (2, 0, b"\x1b", b"\0\1", [[0] * 3, WHITE, [170] * 3, WHITE]),
        (4, 0, b"\x05\x6f", b"\0\5", [[0] * 3, WHITE, [102] * 3, WHITE]),
        (16, 0, b"\x12\x34\x12\x35\0\0\0\0", b"\x12\x34", [WHITE, [18] * 3, [0] * 3, [0] * 3]),
        (
            *(16, 2, b"\x12\x34\x11\x11\x22\x22\x12\x35\x11\x11\x22\x22" + bytes(12)),
            *(b"\x12\x34\x11\x11\x22\x22", [WHITE, [18, 17, 34], [0] * 3, [0] * 3]),
        ),
    ],
    ids=["2 bits", "4 bits", "16 bits", "16-bit colors"],
)
def test_only_the_transparent_color_is_white(
    bits: int, color: int, row: bytes, key: bytes, expected: list[list[int]]
) -> None:
    found = decode(deep_png(b"\0" + row, (4, 1), bits, color, key))

    assert np.asarray(found)[0].tolist() == expected


# ---- animations -------------------------------------------------------------------------


def animation(frame: Image.Image, corner: tuple[int, int] = (0, 0)) -> bytes:
    """An animation whose default image is hidden."""
    control = struct.pack(">5I", 0, *frame.size, *corner) + bytes(6)
    pixels = png_chunk(b"fdAT", struct.pack(">I", 1) + body_of(encoded(frame, "PNG")))
    later = png_chunk(b"fcTL", control) + png_chunk(b"fdAT", bytes(40))
    start = with_chunks(PNG, png_chunk(b"acTL", struct.pack(">II", 2, 0)))
    return with_chunks(start, png_chunk(b"fcTL", control) + pixels + later, behind_pixels=True)


def test_first_frame_of_animation_is_shown_and_not_the_hidden_image() -> None:
    frame = make_image(2)

    assert decode(animation(frame)).tobytes() == frame.tobytes()


def test_smaller_first_frame_lies_on_white() -> None:
    frame = make_image(2, (40, 30))

    found = decode(animation(frame, (100, 50)))

    assert read_header(animation(frame, (100, 50)), 50_000_000) == Header("PNG", 160, 120)
    assert found.size == ORIGINAL.size
    assert found.crop((100, 50, 140, 80)).tobytes() == frame.tobytes()
    assert found.getpixel((10, 10)) == (255, 255, 255)


def test_frame_outside_the_image_is_refused() -> None:
    with pytest.raises(ImageError):
        decode(animation(make_image(2), (100, 50)))
