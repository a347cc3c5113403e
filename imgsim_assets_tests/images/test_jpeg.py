from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from imgsim_assets.images.decode import decode
from imgsim_assets.images.jpeg import Jpeg, as_plain_jpeg
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import (
    stored_with_exif,
    wide_gamut_profile,
    with_segment,
)

MIN_SIZE = 64
SIZE = (120, 90)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _with_orientation(orientation: int) -> bytes:
    stored, exif = stored_with_exif(make_image(1, SIZE), orientation)
    return encoded(stored, exif=exif)


def _two_images() -> bytes:
    return encoded(make_image(1, SIZE), "MPO", save_all=True, append_images=[make_image(2, SIZE)])


PLAIN: dict[str, bytes] = {
    "4:2:0": encoded(make_image(1, SIZE), subsampling="4:2:0"),
    "4:2:2": encoded(make_image(1, SIZE), subsampling="4:2:2"),
    "4:4:4": encoded(make_image(1, SIZE), subsampling="4:4:4"),
    "progressive": encoded(make_image(1, SIZE), progressive=True),
    "gray": encoded(make_image(1, SIZE).convert("L")),
    "gray, progressive": encoded(make_image(1, SIZE).convert("L"), progressive=True),
    "of one pixel": jpeg(1, (1, 1)),
    "with restarts": encoded(make_image(1, SIZE), restart_marker_rows=1),
    "with a comment": encoded(make_image(1, SIZE), comment=b"hello"),
    "upright by EXIF": _with_orientation(1),
    "without an orientation in EXIF": encoded(make_image(1, SIZE), exif=Image.Exif().tobytes()),
    "with damaged EXIF": with_segment(jpeg(1, SIZE), b"II*\0\xff\xff\xff\xff"),
    "in sRGB": encoded(make_image(1, SIZE), icc_profile=SRGB),
    "of the largest size": jpeg(1, (256, 127)),
}
SPECIAL: dict[str, bytes] = {
    **{f"turned by EXIF {way}": _with_orientation(way) for way in range(2, 9)},
    "with a profile": encoded(make_image(1, SIZE), icc_profile=wide_gamut_profile()),
    "with a damaged profile": encoded(make_image(1, SIZE), icc_profile=b"no profile"),
    "in CMYK": encoded(make_image(1, SIZE).convert("CMYK")),
    "in RGB": encoded(make_image(1, SIZE), keep_rgb=True),
    "of two images": _two_images(),
    "to be reduced": jpeg(1, (128, 128)),
    "longer than wide by far": jpeg(1, (257, 20)),
    "with something behind it": jpeg(1, SIZE) + b"\0",
    "a PNG": encoded(make_image(1, SIZE), "PNG"),
    "a WebP": encoded(make_image(1, SIZE), "WEBP"),
    "nothing": b"",
    "its ends alone": b"\xff\xd8\xff\xd9",
    "a beginning and noise": jpeg(1, SIZE)[:100] + b"\x13" * 50 + b"\xff\xd9",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpeg_is_recognized(kind: str) -> None:
    data = PLAIN[kind]

    assert as_plain_jpeg(data, MIN_SIZE) == Jpeg(data)
    np.testing.assert_array_equal(_by_another_decoder(data), np.asarray(decode(data)))


@pytest.mark.parametrize("kind", SPECIAL)
def test_other_files_are_not_plain_jpegs(kind: str) -> None:
    assert as_plain_jpeg(SPECIAL[kind], MIN_SIZE) is None


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "gray, progressive", "upright by EXIF"])
def test_truncated_jpeg_is_not_plain(kind: str) -> None:
    data = PLAIN[kind]

    left = [length for length in range(len(data)) if as_plain_jpeg(data[:length], MIN_SIZE)]

    assert not left


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    orientation=st.integers(0, 9),
    profile=st.sampled_from([None, SRGB, wide_gamut_profile()]),
    colors=st.sampled_from(
        [{"subsampling": "4:2:0"}, {"subsampling": "4:2:2"}, {"subsampling": 0}, {"keep_rgb": True}]
    ),
    options=st.fixed_dictionaries(
        {"quality": st.sampled_from([20, 75, 95]), "progressive": st.booleans()},
        optional={"comment": st.just(b"hello")},
    ),
)
def test_plain_jpeg_decodes_in_full_with_any_decoder(
    width: int,
    height: int,
    mode: str,
    orientation: int,
    profile: bytes | None,
    colors: dict[str, Any],
    options: dict[str, Any],
) -> None:
    stored, exif = stored_with_exif(make_image(width, (width, height)).convert(mode), orientation)
    options |= {"icc_profile": profile, "exif": exif if orientation else b""}
    data = encoded(stored, **options, **colors)

    if as_plain_jpeg(data, MIN_SIZE) is not None:
        seen = np.asarray(decode(data, min_size=MIN_SIZE))
        np.testing.assert_array_equal(_by_another_decoder(data), seen)


def _by_another_decoder(data: bytes) -> np.ndarray:
    """The pixels (height, width, 3) of a decoder that ignores metadata."""
    file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = torchvision.io.ImageReadMode.RGB
    pixels: np.ndarray = torchvision.io.decode_jpeg(file, mode=mode).permute(1, 2, 0).numpy()
    return pixels
