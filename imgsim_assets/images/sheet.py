"""Contact sheets: rows of captioned thumbnails in one small JPEG."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

_CAPTION_HEIGHT = 15
_GAP = 6
_GROUP_GAP = 14
_GROUND = (255, 255, 255)
_INK = (51, 51, 51)
_EMPTY = (229, 229, 229)
_QUALITY = 72
# No cell has room for more.
_MOST_LETTERS = 120


@dataclass(frozen=True)
class Cell:
    """One place of a sheet; an image that is missing is drawn as a gray square."""

    image: Image.Image | None
    caption: str


def contact_sheet(
    rows: Sequence[Sequence[Cell]], *, group: int | None = None, thumbnail: int = 96
) -> bytes:
    """A JPEG of rows of cells, every image fitted into a square of `thumbnail` pixels.

    With `group`, a wider gap follows every so many cells of a row.
    """

    def left_of(column: int) -> int:
        groups_before = column // group if group else 0
        return _GAP + column * (thumbnail + _GAP) + groups_before * _GROUP_GAP

    columns = max((len(row) for row in rows), default=0)
    cell_height = thumbnail + _CAPTION_HEIGHT
    width = left_of(columns - 1) + thumbnail + _GAP
    height = len(rows) * (cell_height + _GAP) + _GAP
    sheet = Image.new("RGB", (max(width, 1), max(height, 1)), _GROUND)
    for row_number, row in enumerate(rows):
        for column, cell in enumerate(row):
            top = _GAP + row_number * (cell_height + _GAP)
            _draw_cell(sheet, cell, left_of(column), top, thumbnail)
    body = io.BytesIO()
    sheet.save(body, "JPEG", quality=_QUALITY)
    return body.getvalue()


def _draw_cell(sheet: Image.Image, cell: Cell, left: int, top: int, side: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if cell.image is None:
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=_EMPTY)
    else:
        fitted = ImageOps.contain(cell.image, (side, side))
        offset = ((side - fitted.width) // 2, (side - fitted.height) // 2)
        sheet.paste(fitted, (left + offset[0], top + offset[1]))
    font = ImageFont.load_default(11)
    caption = _fitting(cell.caption, font, side)
    draw.text((left + side / 2, top + side + 1), caption, fill=_INK, font=font, anchor="ma")


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its middle left out when it is wider than the cell."""
    if len(text) <= _MOST_LETTERS and font.getlength(text) <= width:
        return text

    def shortened(kept: int) -> str:
        head = (kept + 1) // 2
        return f"{text[:head]}…{text[len(text) - (kept - head) :]}"

    # Widths grow with the letters kept, so the most that fit are found by bisection.
    fits = bisect.bisect_left(
        range(min(len(text), _MOST_LETTERS)),
        True,
        key=lambda kept: font.getlength(shortened(kept)) > width,
    )
    return shortened(max(fits - 1, 0))
