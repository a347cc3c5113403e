from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.formats import FORMATS
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import (
    exif_of,
    png_of,
    srgb_of_wide,
    stored_with_exif,
    wide_gamut_profile,
    with_segment,
)

STATUSES = {
    "not_image",
    "unsupported_format",
    "too_many_pixels",
    "too_complex",
    "truncated",
    "decode_error",
}
WHITE = (255, 255, 255)

# Formats of any size.
FILE_FORMATS = [name for name in FORMATS if name != "ICO"]

# Mean difference that a lossy format may cause; a wrong orientation exceeds 25.
LOSSY = 12.0

# A folder of malformed images, decoded one by one.
CORPUS = "IMGSIM_TEST_IMAGES"


# ---- formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILE_FORMATS)
def test_every_format_decodes_to_the_image(kind: str) -> None:
    original = make_image(1, (96, 64))

    found = decode(encoded(original, kind))

    assert found.mode == "RGB"
    assert difference(found, original) < LOSSY


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB", "CMYK", "YCbCr", "LAB"])
def test_every_mode_decodes_to_the_image(mode: str) -> None:
    original = make_image(1, (96, 64)).convert("1" if mode == "1" else "RGB")
    if mode in ("L", "LA"):
        original = original.convert("L")
    stored = in_lab(original) if mode == "LAB" else original.convert(mode)

    found = decode(encoded(stored, "TIFF"))

    assert found.mode == "RGB"
    assert difference(found, original.convert("RGB")) < (25 if mode == "P" else 4)


def test_cmyk_jpeg_is_not_inverted() -> None:
    color = (200, 40, 90)
    data = encoded(Image.new("RGB", (32, 32), color).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"

    assert near(decode(data).getpixel((16, 16)), color, 6)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_animation_decodes_to_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (32, 24), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    found = decode(data)

    assert found.size == (32, 24)
    assert near(found.getpixel((10, 10)), (255, 0, 0), 4)


def test_multi_picture_jpeg_decodes_to_first_image() -> None:
    data = encoded(make_image(1), "MPO", save_all=True, append_images=[make_image(2)])

    assert difference(decode(data), make_image(1)) < LOSSY


def test_decoding_is_deterministic() -> None:
    data = encoded(make_image(1), "WEBP", quality=40)

    assert decode(data).tobytes() == decode(data).tobytes()


# ---- orientation -------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = make_image(1, (96, 64))
    stored, exif = stored_with_exif(upright, orientation)

    found = decode(encoded(stored, kind, exif=exif))

    assert found.size == upright.size
    assert difference(found, upright) < LOSSY


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientation_is_ignored(orientation: int) -> None:
    stored, exif = stored_with_exif(make_image(1, (96, 64)), orientation)

    assert difference(decode(encoded(stored, exif=exif)), make_image(1, (96, 64))) < LOSSY


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "payload", [b"", b"garbage", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_jpeg_with_damaged_exif_decodes(payload: bytes) -> None:
    assert difference(decode(with_segment(jpeg(1), payload)), make_image(1)) < LOSSY


def test_damaged_exif_logs_no_warning(tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(with_segment(jpeg(1), b"II*\0\xff\xff\xff\xff"))
    program = (
        "import sys, pathlib; from imgsim_assets.images.decode import decode; "
        "print(decode(pathlib.Path(sys.argv[1]).read_bytes()).size)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )

    assert (done.stdout.strip(), done.stderr) == ("(160, 120)", "")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("payload", [b"Exif\0\0garbage!", b"Exif\0\0MM\0*"])
def test_image_with_damaged_exif_decodes(kind: str, payload: bytes) -> None:
    assert difference(decode(encoded(make_image(1), kind, exif=payload)), make_image(1)) < LOSSY


def test_image_with_malformed_exif_tag_decodes() -> None:
    upright = make_image(1, (96, 64))
    stored, _ = stored_with_exif(upright, 6)
    malformed = exif_of([(0x0112, 3, 1, b"\x06\0"), (0x011B, 2, 2, b"x\0")])

    assert difference(decode(with_segment(encoded(stored), malformed)), upright) < LOSSY


# ---- transparency ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_fully_transparent_colors_are_white(kind: str) -> None:
    data = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), kind)

    assert near(decode(data).getpixel((8, 8)), WHITE, 2)


def test_half_transparent_colors_are_blended_with_white() -> None:
    data = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 128)), "PNG")

    assert near(decode(data).getpixel((8, 8)), (255, 127, 127), 1)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (128, 127), (255, 0)])
def test_transparent_gray_is_blended_with_white(alpha: int, expected: int) -> None:
    data = encoded(Image.new("LA", (16, 16), (0, alpha)), "PNG")

    assert near(decode(data).getpixel((8, 8)), (expected,) * 3, 1)


def test_transparent_palette_entry_is_white() -> None:
    stored = Image.new("P", (16, 16), 1)
    stored.putpalette([255, 0, 0, 0, 255, 0])
    stored.putpixel((3, 3), 0)

    for kind in ("PNG", "GIF"):
        found = decode(encoded(stored, kind, transparency=1))
        assert found.getpixel((8, 8)) == WHITE
        assert found.getpixel((3, 3)) == (255, 0, 0)


def test_half_transparent_palette_entries_are_blended_with_white() -> None:
    stored = Image.new("P", (16, 16), 1)
    stored.putpalette([255, 0, 0, 0, 0, 0])

    found = decode(encoded(stored, "PNG", transparency=bytes([255, 128])))

    assert near(found.getpixel((8, 8)), (127, 127, 127), 1)


@pytest.mark.parametrize(
    ("mode", "key"), [("RGB", (10, 20, 30)), ("L", 7), ("1", 0)], ids=["RGB", "L", "1"]
)
def test_transparency_color_key_is_white(mode: str, key: Any) -> None:
    data = encoded(Image.new(mode, (16, 16), key), "PNG", transparency=key)

    assert decode(data).getpixel((8, 8)) == WHITE


# ---- deep and floating values ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bit_gray_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 255, 256], [20_000, 40_000, 65_535]], dtype=np.uint16)

    assert grays(encoded(Image.fromarray(values), kind)) == [[0, 0, 1], [78, 156, 255]]


def test_dark_16_bit_gray_stays_dark() -> None:
    values = np.array([[0, 100], [200, 255]], dtype=np.uint16)

    assert grays(encoded(Image.fromarray(values), "PNG")) == [[0, 0], [0, 0]]


def test_big_endian_16_bit_gray_is_scaled() -> None:
    values = np.array([[0, 256], [40_000, 65_535]], dtype=">u2")
    stored = Image.frombytes("I;16B", (2, 2), values.tobytes())

    assert grays(encoded(stored, "TIFF")) == [[0, 1], [156, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 100], [200, 255]], [[0, 100], [200, 255]]),
        ([[0, 256], [40_000, 65_535]], [[0, 1], [156, 255]]),
        ([[0, 50_000], [100_000, -7]], [[0, 127], [255, 0]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
    ids=["8 bits", "16 bits", "more", "black"],
)
def test_integers_are_scaled_by_their_range(
    values: list[list[int]], expected: list[list[int]]
) -> None:
    assert grays(encoded(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF")) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.5], [0.25, 1.0]], [[0, 127], [63, 255]]),
        ([[0.0, 100.0], [254.9, 255.0]], [[0, 100], [254, 255]]),
        ([[0.0, 256.0], [40_000.0, 65_535.0]], [[0, 1], [156, 255]]),
        ([[0.0, 5e5], [1e6, -3.0]], [[0, 127], [255, 0]]),
        ([[float("nan"), 0.5], [float("-inf"), 1.0]], [[0, 127], [0, 255]]),
    ],
    ids=["to 1", "to 255", "to 65535", "more", "no numbers"],
)
def test_floats_are_scaled_by_their_range(
    values: list[list[float]], expected: list[list[int]]
) -> None:
    assert grays(encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")) == expected


# ---- colors -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("color", [(200, 50, 50), (60, 180, 75), (128, 128, 128)])
def test_wide_gamut_colors_are_converted_to_srgb(kind: str, color: tuple[int, int, int]) -> None:
    data = encoded(Image.new("RGB", (16, 16), color), kind, icc_profile=wide_gamut_profile())

    assert near(decode(data).getpixel((8, 8)), srgb_of_wide(color), 4)


def test_srgb_colors_stay_unchanged() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    original = make_image(1)

    assert decode(encoded(original, "PNG", icc_profile=profile)).tobytes() == original.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_profile_is_applied_in_every_mode(mode: str) -> None:
    color = (200, 50, 50)
    stored = Image.new("RGB", (16, 16), color)
    stored = stored.convert("RGBA") if mode == "RGBA" else stored.quantize(4)
    data = encoded(stored, "PNG", icc_profile=wide_gamut_profile())

    assert near(decode(data).getpixel((8, 8)), srgb_of_wide(color), 4)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("damage", ["garbage", "cut", "of another kind"])
def test_image_with_damaged_profile_decodes(mode: str, damage: str) -> None:
    profile = {
        "garbage": b"no profile at all",
        "cut": wide_gamut_profile()[:200],
        "of another kind": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    }[damage]
    stored = make_image(1).convert(mode)

    found = decode(encoded(stored, "TIFF", icc_profile=profile))

    assert difference(found, stored.convert("RGB")) < 2


@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_image_with_profile_of_wrong_type_decodes() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[34675] = (1, 2, 3)
    tags.tagtype[34675] = 3

    assert difference(decode(encoded(make_image(1), "TIFF", tiffinfo=tags)), make_image(1)) < 2


# ---- reduced decoding --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((95, 400), (95, 400)),
        ((200, 100), (100, 50)),
        ((400, 400), (50, 50)),
        ((900, 800), (113, 100)),
    ],
)
def test_large_jpeg_is_reduced_to_at_least_min_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    found = decode(encoded(make_image(1, size)), min_size=50)

    assert found.size == expected
    whole = make_image(1, size).resize(found.size, Image.Resampling.BOX)
    assert difference(found, whole) < LOSSY


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_other_formats_are_decoded_in_full(kind: str) -> None:
    assert decode(encoded(make_image(1, (300, 200)), kind), min_size=20).size == (300, 200)


def test_orientation_is_applied_to_reduced_image() -> None:
    stored, exif = stored_with_exif(make_image(1, (400, 200)), 6)

    assert decode(encoded(stored, exif=exif), min_size=50).size == (100, 50)


def test_truncated_large_jpeg_is_reported_at_any_size() -> None:
    data = encoded(make_image(1, (800, 800)))

    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) // 2], min_size=50)


# ---- undecodable files -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_image_is_reported(kind: str, part: float) -> None:
    data = encoded(make_image(1), kind)

    with pytest.raises(ImageError) as refused:
        decode(data[: int(len(data) * part)])

    assert refused.value.status == "truncated"


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_webp_avif_or_heic_is_reported(kind: str, part: float) -> None:
    data = encoded(make_image(1), kind)

    with pytest.raises(ImageError) as refused:
        decode(data[: int(len(data) * part)])

    assert refused.value.status == "truncated"


@pytest.mark.parametrize(
    "data",
    [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF1234WEBP", b"BM12", b"II*\0", b"P6 "],
)
def test_file_that_is_cut_in_its_header_is_truncated(data: bytes) -> None:
    with pytest.raises(ImageError) as refused:
        decode(data)

    assert refused.value.status == "truncated"


def test_too_many_pixels_are_rejected_before_decoding() -> None:
    with pytest.raises(ImageError, match="too_many_pixels: 9000 x 9000 pixels are more than"):
        decode(png_of(9_000, 9_000), max_pixels=80_000_000)
    with pytest.raises(ImageError, match=r"too_many_pixels: .*200000000 pixels"):
        decode(png_of(20_000, 10_000))


def test_max_pixels_can_be_set() -> None:
    data = encoded(make_image(1, (40, 30)), "PNG")

    assert decode(data, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match="too_many_pixels"):
        decode(data, max_pixels=1199)


@pytest.mark.parametrize("kind", FILE_FORMATS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_file_decodes_or_raises_image_error(kind: str, data: st.DataObject) -> None:
    stored, exif = stored_with_exif(make_image(3, (32, 24)), 6)
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    body = bytearray(encoded(stored, kind, **options))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        cut = data.draw(st.integers(0, 8))
        body[at : at + cut] = data.draw(st.binary(max_size=8))
        if not body:
            break

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = decode(bytes(body), max_pixels=200_000)
        except ImageError as refused:
            assert refused.status in STATUSES  # noqa: PT017
            return

    assert found.mode == "RGB"
    assert 0 < found.width * found.height <= 200_000


@pytest.mark.skipif(CORPUS not in os.environ, reason=f"{CORPUS} names no folder of images")
def test_malformed_images_decode_or_raise_image_error() -> None:
    files = sorted(path for path in Path(os.environ[CORPUS]).rglob("*") if path.is_file())
    assert files

    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = decode(path.read_bytes())
            except ImageError as refused:
                assert refused.status in STATUSES, path  # noqa: PT017
            else:
                assert found.mode == "RGB", path
                assert found.width * found.height > 0, path


def difference(left: Image.Image, right: Image.Image) -> float:
    """The mean difference of two images' values; 255 when their sizes differ."""
    if left.size != right.size:
        return 255.0
    pair = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (left, right)]
    return float(np.abs(pair[0] - pair[1]).mean())


def near(found: Any, expected: tuple[int, ...], tolerance: int) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


def grays(data: bytes) -> list[list[int]]:
    values = np.asarray(decode(data))
    assert (values == values[..., :1]).all()
    rows: list[list[int]] = values[..., 0].tolist()
    return rows


def in_lab(image: Image.Image) -> Image.Image:
    to_lab: Callable[..., Any] = ImageCms.profileToProfile
    converted: Image.Image = to_lab(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    return converted
