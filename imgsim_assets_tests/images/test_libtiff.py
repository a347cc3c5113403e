"""libtiff's messages go to the image's detail and never to stderr."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.libtiff import collected_messages


def _damaged(compression: str, seed: int = 0) -> bytes:
    """A TIFF of noise whose compressed rows are partly overwritten."""
    mode = "1" if compression.startswith("group") else "RGB"
    body = io.BytesIO()
    image = Image.effect_noise((120, 90), 60).convert(mode)
    image.save(body, "TIFF", compression=compression)
    data = bytearray(body.getvalue())
    start = 8 + (len(data) - 300) // 8
    damage = random.Random(seed).randbytes((len(data) - 300) // 4)
    data[start : start + len(damage)] = damage
    return bytes(data)


def _detail(data: bytes) -> str:
    try:
        decode(data)
    except ImageError as error:
        return error.detail
    return ""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "group4", "jpeg", "zstd"])
def test_damaged_rows_print_nothing(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        _detail(_damaged(compression, seed))

    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


def test_what_libtiff_says_is_in_the_detail() -> None:
    assert _detail(_damaged("tiff_lzw")).startswith("OSError: decoder error")
    assert "not yet in table" in _detail(_damaged("tiff_lzw"))
    assert "ZIPDecode: Decoding error at scanline" in _detail(_damaged("tiff_deflate"))
    assert len(_detail(_damaged("group4"))) < 600


def test_messages_of_concurrent_decodings_stay_apart() -> None:
    files = [_damaged("tiff_deflate"), _damaged("tiff_lzw"), _damaged("zstd")] * 20
    expected = [_detail(data) for data in files[:3]] * 20
    assert len(set(expected)) == 3

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(_detail, files)) == expected


def test_a_sound_tiff_says_nothing() -> None:
    body = io.BytesIO()
    Image.effect_noise((20, 20), 60).save(body, "TIFF", compression="tiff_lzw")

    with collected_messages() as messages:
        Image.open(io.BytesIO(body.getvalue())).load()

    assert (messages.count, str(messages)) == (0, "")
