from __future__ import annotations

import io
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from imgsim_assets.images.sheet import Cell, contact_sheet
from imgsim_assets_tests.support.images import make_image

RED = Image.new("RGB", (60, 60), (255, 0, 0))
SIDE = 96


def test_sheet_is_one_jpeg() -> None:
    sheet = Image.open(
        io.BytesIO(contact_sheet([[Cell(make_image(1), "a"), Cell(make_image(2), "b")]]))
    )

    assert sheet.format == "JPEG"
    assert sheet.mode == "RGB"
    sheet.load()


def test_sheet_grows_evenly_with_columns_and_rows() -> None:
    sizes = {
        (rows, columns): opened([[Cell(RED, "x")] * columns] * rows).size
        for rows in (1, 2, 3)
        for columns in (1, 2, 3)
    }

    widths = [sizes[1, columns][0] for columns in (1, 2, 3)]
    heights = [sizes[rows, 1][1] for rows in (1, 2, 3)]
    assert widths[1] - widths[0] == widths[2] - widths[1] >= SIDE
    assert heights[1] - heights[0] == heights[2] - heights[1] > SIDE
    assert sizes[3, 3] == (widths[2], heights[2])


def test_groups_have_a_wider_gap() -> None:
    row = [[Cell(RED, "")] * 4]

    plain, pairs, whole = opened(row), opened(row, group=2), opened(row, group=4)

    assert pairs.width > plain.width == whole.width
    assert gaps(pairs)[0] == gaps(pairs)[2] == gaps(plain)[1] < gaps(pairs)[1]


def test_thumbnails_have_requested_size() -> None:
    small, large = opened([[Cell(RED, "")]], thumbnail=48), opened([[Cell(RED, "")]], thumbnail=120)

    assert red(small).sum() == pytest.approx(48 * 48, rel=0.1)
    assert red(large).sum() == pytest.approx(120 * 120, rel=0.05)


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (10, 20), (96, 96)])
def test_whole_image_fits_into_its_cell(size: tuple[int, int]) -> None:
    sheet = opened([[Cell(Image.new("RGB", size, (255, 0, 0)), "")]])

    seen = red(sheet)
    width, height = int(seen.any(axis=0).sum()), int(seen.any(axis=1).sum())
    scale = SIDE / max(size)
    assert width == pytest.approx(size[0] * scale, abs=3)
    assert height == pytest.approx(size[1] * scale, abs=3)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1, 1)])
def test_extreme_aspect_ratio_is_drawn(size: tuple[int, int]) -> None:
    assert opened([[Cell(Image.new("RGB", size), "spacer")]]).width >= SIDE


def test_missing_image_is_a_gray_square() -> None:
    values = np.asarray(opened([[Cell(None, "gone")]])).astype(int)

    middle = values[values.shape[0] // 2, values.shape[1] // 2]
    assert np.ptp(middle) <= 4
    assert 200 < middle.mean() < 250


def test_rows_may_have_different_lengths() -> None:
    sheet = opened([[Cell(RED, "a")] * 3, [Cell(RED, "b")], []])

    assert sheet.size == opened([[Cell(RED, "a")] * 3] * 3).size


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
@pytest.mark.parametrize("group", [None, 2])
def test_empty_sheet_is_drawn(rows: Sequence[Sequence[Cell]], group: int | None) -> None:
    assert opened(rows, group=group).width >= 1


def test_caption_is_drawn_below_image() -> None:
    bare, titled = opened([[Cell(RED, "")]]), opened([[Cell(RED, "sku 4711")]])

    changed = np.asarray(bare.convert("L")).astype(int) - np.asarray(titled.convert("L"))
    rows = np.nonzero((abs(changed) > 60).any(axis=1))[0]
    assert rows.size
    assert rows.min() > SIDE


def test_long_caption_is_shortened_in_the_middle() -> None:
    alone = opened([[Cell(RED, ""), Cell(RED, "")]])
    titled = opened([[Cell(RED, "a" * 40 + "0001"), Cell(RED, "")]])
    other = opened([[Cell(RED, "a" * 40 + "0002"), Cell(RED, "")]])

    half = alone.width // 2
    right = (half + 8, 0, alone.width, alone.height)
    assert alone.crop(right).tobytes() == titled.crop(right).tobytes()
    assert titled.tobytes() != other.tobytes()
    assert titled.tobytes() != opened([[Cell(RED, "b" * 40 + "0001"), Cell(RED, "")]]).tobytes()


@pytest.mark.parametrize(
    "caption", ["", " ", "two\nlines", "tab\there", "\x00\x1b", "日本語 🪑", "é" * 300, "W"]
)
def test_any_caption_can_be_drawn(caption: str) -> None:
    sheet = opened([[Cell(RED, caption)]], thumbnail=8)

    assert sheet.size == opened([[Cell(RED, "x")]], thumbnail=8).size


def test_long_captions_are_fast() -> None:
    began = time.process_time()

    contact_sheet([[Cell(None, "https://x/1.jpg?signature=" + "a" * 1_500)]])

    assert time.process_time() - began < 0.5


def opened(
    rows: Sequence[Sequence[Cell]], *, group: int | None = None, thumbnail: int = SIDE
) -> Image.Image:
    sheet = Image.open(io.BytesIO(contact_sheet(rows, group=group, thumbnail=thumbnail)))
    sheet.load()
    return sheet


def red(sheet: Image.Image) -> np.ndarray:
    values = np.asarray(sheet).astype(int)
    return (values[..., 0] > 180) & (values[..., 1] < 90)


def gaps(sheet: Image.Image) -> list[int]:
    """The widths between the red squares of the first row."""
    (edges,) = np.nonzero(np.diff(red(sheet)[SIDE // 2].astype(int)))
    return [int(b - a) for a, b in zip(edges[1:-1:2], edges[2::2], strict=True)]
