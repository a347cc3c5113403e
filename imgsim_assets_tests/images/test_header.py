from __future__ import annotations

import io
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from imgsim_assets.images import header
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.formats import FORMATS
from imgsim_assets.images.header import Header, open_image, read_header
from imgsim_assets.images.limits import MAX_PIXELS
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import (
    bmp_of,
    gif_of,
    png_of,
    ppm_of,
    stored_with_exif,
)

LIMIT = 50_000_000


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "ICO"])
def test_header_has_format_and_size(kind: str) -> None:
    data = encoded(make_image(1, (48, 32)), kind)

    assert read_header(data, LIMIT) == Header(kind, 48, 32)


def test_multi_picture_jpeg_is_accepted() -> None:
    data = encoded(make_image(1, (80, 60)), "MPO", save_all=True, append_images=[make_image(2)])

    assert read_header(data, LIMIT) == Header("JPEG", 80, 60)


def test_size_is_that_before_rotation() -> None:
    stored, exif = stored_with_exif(make_image(1, (160, 120)), 6)

    assert read_header(encoded(stored, exif=exif), LIMIT) == Header("JPEG", 120, 160)


def test_header_does_not_decode_pixels() -> None:
    data = jpeg(1)

    assert read_header(data[: len(data) // 2], LIMIT) == Header("JPEG", 160, 120)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 5}, {"comment": b"c"}, {"dpi": (72, 72)}]
)
def test_plain_jpeg_header_agrees_with_pillow_for_any_damage(
    options: dict[str, Any],
) -> None:
    """The reader of plain headers rejects what Pillow rejects, and agrees on the rest."""
    rng = random.Random(1)
    data = encoded(make_image(1, (160, 120)), "JPEG", **options)
    start = data.index(b"\xff\xda") + 16
    bodies = [data, data[:start], *(data[:end] for end in range(0, start, 3))]
    for _ in range(1500):
        changed = bytearray(data)
        changed[rng.randrange(start)] = rng.choice([0, 1, 2, 255, rng.randrange(256)])
        bodies.append(bytes(changed))
    plain = 0
    for body in bodies:
        size = header._plain_jpeg_size(body)
        if size is not None and 0 < size[0] * size[1] <= LIMIT:
            plain += 1
            with open_image(body, LIMIT) as image:
                assert (image.format, image.size) == ("JPEG", size)
    assert plain > 500
    assert header._plain_jpeg_size(data) == (160, 120)


@pytest.mark.parametrize("make", [png_of, gif_of, bmp_of, ppm_of])
@pytest.mark.parametrize("side", [8_000, 20_000, 60_000])
def test_small_file_with_too_many_pixels_is_rejected(
    make: Callable[[int, int], bytes], side: int
) -> None:
    data = make(side, side)
    assert len(data) < 200

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError) as refused:
            read_header(data, LIMIT)

    assert refused.value.status == "too_many_pixels"


def test_max_pixels_is_inclusive() -> None:
    data = encoded(make_image(1, (40, 30)), "PNG")

    assert read_header(data, 1200).width == 40
    with pytest.raises(ImageError, match="too_many_pixels: 40 x 30 pixels are more than 1199"):
        read_header(data, 1199)


def test_decompression_bomb_is_rejected_without_warning() -> None:
    program = (
        "from imgsim_assets.images.errors import ImageError\n"
        "from imgsim_assets.images.header import read_header\n"
        "from imgsim_assets_tests.support.malformed_images import png_of\n"
        "try:\n"
        f"    read_header(png_of(10_000, 10_000), {LIMIT})\n"
        "except ImageError as refused:\n"
        "    print(refused.status)\n"
    )

    for options in ([], ["-W", "error"]):
        done = subprocess.run(
            [sys.executable, *options, "-c", program], capture_output=True, text=True, check=True
        )
        assert (done.stdout.strip(), done.stderr) == ("too_many_pixels", "")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_largest_max_pixels_is_enforced() -> None:
    assert read_header(png_of(MAX_PIXELS // 10, 10), MAX_PIXELS).height == 10
    with pytest.raises(ImageError, match="too_many_pixels"):
        read_header(png_of(MAX_PIXELS // 10 + 1, 10), MAX_PIXELS)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_format_that_needs_the_whole_file_is_truncated(kind: str) -> None:
    data = encoded(make_image(1), kind)

    with pytest.raises(ImageError) as refused:
        read_header(data[: len(data) // 2], LIMIT)

    assert refused.value.status == "truncated"


@pytest.mark.parametrize(
    ("data", "status", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "truncated", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "truncated", "HEIF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format", "SVG"),
        (b'<?xml version="1.0"?>\n<svg/>', "unsupported_format", "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "not_image", "HTML"),
        (b"\r\n  <html><body>", "not_image", "HTML"),
        (b'{"error": "gone"}', "not_image", "not one of AVIF"),
        (b"%PDF-1.7\n", "not_image", "not one of AVIF"),
        (b"\0" * 500, "not_image", "not one of AVIF"),
        (b"not here", "not_image", "not one of AVIF"),
        (b"", "not_image", "not one of AVIF"),
    ],
)
def test_non_image_is_identified(data: bytes, status: str, named: str) -> None:
    with pytest.raises(ImageError) as refused:
        read_header(data, LIMIT)

    assert refused.value.status == status
    assert named in refused.value.detail
    assert str(refused.value) == f"{status}: {refused.value.detail}"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\xef\xbb\xbf<!DOCTYPE html>", "HTML"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "SVG"),
        (b"<!-- made by hand -->\n<svg/>", "SVG"),
        (b"\n" * 80 + b"<html>", "HTML"),
    ],
    ids=["marked HTML", "marked SVG", "commented SVG", "HTML after blank lines"],
)
def test_text_is_identified_after_byte_order_mark_and_comments(data: bytes, named: str) -> None:
    with pytest.raises(ImageError) as refused:
        read_header(data, LIMIT)

    assert named in refused.value.detail


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "DDS"])
def test_other_formats_are_not_opened(kind: str) -> None:
    data = encoded(make_image(1, (64, 64)), kind)
    assert Image.open(io.BytesIO(data)).format == kind

    with pytest.raises(ImageError) as refused:
        read_header(data, LIMIT)

    assert refused.value.status in ("not_image", "unsupported_format")


def test_opened_image_can_be_decoded() -> None:
    with open_image(encoded(make_image(1, (48, 32)), "PNG"), LIMIT) as image:
        assert image.getpixel((0, 0)) == make_image(1, (48, 32)).getpixel((0, 0))


def test_heic_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    body = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (48, 32), "teal")).save(body)
    data = body.getvalue()
    found = read_header(data, 10_000)
    assert (found.format, found.width, found.height) == ("HEIF", 48, 32)
    with pytest.raises(ImageError) as cut:
        read_header(data[:60], 10_000)
    assert cut.value.status == "truncated"
    with pytest.raises(ImageError) as large:
        read_header(data, 1000)
    assert large.value.status == "too_many_pixels"
    monkeypatch.setattr(header, "can_open_heif", lambda: False)
    with pytest.raises(ImageError, match="heic") as refused:
        read_header(data, 10_000)
    assert refused.value.status == "unsupported_format"


@pytest.mark.parametrize(("kind", "share"), [("WEBP", 0.5), ("AVIF", 0.4), ("JPEG2000", 0.3)])
def test_format_whose_decoder_takes_more_memory_may_have_fewer_pixels(
    kind: str, share: float
) -> None:
    data = encoded(make_image(1, (100, 100)), kind)

    assert read_header(data, round(10_000 / share) + 2).width == 100
    with pytest.raises(ImageError, match=f"too_many_pixels: .* the limit of {kind}"):
        read_header(data, round(10_000 / share) - 9)
