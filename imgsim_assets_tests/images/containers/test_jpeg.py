from __future__ import annotations

import time

import pytest

from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import read_header
from imgsim_assets.images.repair import TRUNCATED
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import jpeg_segment, scan_bomb

XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'


def with_segments(data: bytes, segments: bytes) -> bytes:
    return data[:2] + segments + data[2:]


@pytest.mark.parametrize(
    "segments",
    [
        jpeg_segment(0xE1, XMP),
        jpeg_segment(0xE5, b"x" * 60_000) * 200,
        jpeg_segment(0xFE, b"") * 20_000,
        jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60_000) * 100,
        jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 9000),
    ],
    ids=["XMP orientation", "large", "many", "large profile", "Photoshop"],
)
def test_metadata_changes_no_pixel(segments: bytes) -> None:
    assert decode(with_segments(jpeg(1), segments)).tobytes() == decode(jpeg(1)).tobytes()


@pytest.mark.parametrize(("side", "scans"), [(7000, 200), (600, 5000)])
def test_too_many_scans_are_refused_at_once(side: int, scans: int) -> None:
    data = scan_bomb(side, scans)
    started = time.process_time()

    for read in (lambda: read_header(data, 50_000_000), lambda: decode(data)):
        with pytest.raises(ImageError) as refused:
            read()
        assert refused.value.status == "too_complex"

    assert time.process_time() - started < 1


def test_usual_progressive_scans_are_accepted() -> None:
    original = make_image(1)

    assert decode(encoded(original, progressive=True, quality=95)).size == original.size
    assert decode(scan_bomb(64, 50)).size == (64, 64)


def test_too_many_segments_are_refused() -> None:
    with pytest.raises(ImageError, match="too_complex"):
        decode(with_segments(jpeg(1), jpeg_segment(0xE5, b"") * 70_000))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", "JPEG with 12 bits per channel"),
        (b"\xff\xc0", b"\xff\xc3", "lossless JPEG"),
        (b"\xff\xc0", b"\xff\xc5", "hierarchical JPEG"),
        (b"\xff\xc0", b"\xff\xf7", "JPEG-LS"),
    ],
)
def test_unsupported_kind_of_jpeg_is_named(old: bytes, new: bytes, named: str) -> None:
    with pytest.raises(ImageError) as refused:
        read_header(jpeg(1).replace(old, new, 1), 50_000_000)

    assert (refused.value.status, refused.value.detail) == ("unsupported_format", named)


@pytest.mark.parametrize("end", [3, 20, 100, 170, 400])
def test_jpeg_that_is_cut_in_its_header_is_truncated(end: int) -> None:
    for read in (lambda data: read_header(data, 50_000_000), decode):
        with pytest.raises(ImageError) as refused:
            read(jpeg(1)[:end])
        assert refused.value.status == "truncated"


# ---- the end ----------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_end_marker_is_complete(progressive: bool, missing: int) -> None:
    data = encoded(make_image(1), progressive=progressive)

    found = decode(data[:-missing])

    assert found.tobytes() == decode(data).tobytes()
    assert TRUNCATED not in found.info


def test_cut_jpeg_never_passes_as_complete_with_other_pixels() -> None:
    for seed in range(8):
        data = encoded(make_image(seed), quality=60 + 4 * seed, progressive=seed % 2 == 1)
        whole = decode(data).tobytes()
        for cut in range(3, 90):
            assert _status_or_pixels(data[:-cut]) in ("truncated", whole)


def _status_or_pixels(data: bytes) -> str | bytes:
    try:
        return decode(data).tobytes()
    except ImageError as error:
        return error.status


def test_progressive_jpeg_without_its_last_scan_is_truncated() -> None:
    data = encoded(make_image(1), progressive=True)

    with pytest.raises(ImageError, match="truncated"):
        decode(data[: data.rindex(b"\xff\xda")])


@pytest.mark.parametrize("min_size", [None, 50])
def test_truncated_jpeg_is_decoded_where_it_is_accepted(min_size: int | None) -> None:
    data = encoded(make_image(1, (400, 400)))

    found = decode(data[: len(data) * 3 // 4], min_size=min_size, accept_truncated=True)

    assert found.info[TRUNCATED] is True
    whole = decode(data, min_size=min_size)
    top = (0, 0, whole.width, whole.height // 2)
    assert found.crop(top).tobytes() == whole.crop(top).tobytes()


def test_jpeg_without_any_pixel_is_never_accepted() -> None:
    data = jpeg(1)

    with pytest.raises(ImageError, match="truncated"):
        decode(data[: data.index(b"\xff\xda") + 14], accept_truncated=True)
