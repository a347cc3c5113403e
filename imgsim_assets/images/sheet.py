"""Contact sheets: rows of captioned thumbnails in one JPEG."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

_CAPTION_HEIGHT = 15
_GAP = 6
_GROUP_GAP = 14
_BACKGROUND = (255, 255, 255)
_INK = (51, 51, 51)
_EMPTY = (229, 229, 229)
_QUALITY = 72
# No cell has room for more.
_MAX_LETTERS = 120


@dataclass(frozen=True)
class Cell:
    """A cell of a sheet; a missing image is drawn as a gray square."""

    image: Image.Image | None
    caption: str


def contact_sheet(
    rows: Sequence[Sequence[Cell]], *, group: int | None = None, thumbnail: int = 96
) -> bytes:
    """Draw rows of cells.

    Args:
        rows: of any length each.
        group: number of cells in a row after which a wider gap follows.
        thumbnail: edge in pixels of the square that each image is fitted into.

    Returns:
        The bytes of a JPEG.
    """

    def left_of(column: int) -> int:
        groups_before = column // group if group else 0
        return _GAP + column * (thumbnail + _GAP) + groups_before * _GROUP_GAP

    columns = max((len(row) for row in rows), default=0)
    cell_height = thumbnail + _CAPTION_HEIGHT
    width = left_of(columns - 1) + thumbnail + _GAP
    height = len(rows) * (cell_height + _GAP) + _GAP
    sheet = Image.new("RGB", (max(width, 1), max(height, 1)), _BACKGROUND)
    for row_number, row in enumerate(rows):
        for column, cell in enumerate(row):
            top = _GAP + row_number * (cell_height + _GAP)
            _draw_cell(sheet, cell, left_of(column), top, thumbnail)
    body = io.BytesIO()
    sheet.save(body, "JPEG", quality=_QUALITY)
    return body.getvalue()


def side_by_side(images: Sequence[Image.Image], edge: int) -> Image.Image:
    """Images in one row, each fitted into a square of `edge` pixels."""
    row = Image.new("RGB", (len(images) * (edge + 2) - 2, edge), _BACKGROUND)
    for position, image in enumerate(images):
        fitted = ImageOps.contain(image.convert("RGB"), (edge, edge))
        left = position * (edge + 2) + (edge - fitted.width) // 2
        row.paste(fitted, (left, (edge - fitted.height) // 2))
    return row


def _draw_cell(sheet: Image.Image, cell: Cell, left: int, top: int, size: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if cell.image is None:
        draw.rectangle((left, top, left + size - 1, top + size - 1), fill=_EMPTY)
    else:
        fitted = ImageOps.contain(cell.image, (size, size))
        offset = ((size - fitted.width) // 2, (size - fitted.height) // 2)
        sheet.paste(fitted, (left + offset[0], top + offset[1]))
    font = ImageFont.load_default(11)
    caption = _shorten_to_fit(cell.caption, font, size)
    draw.text((left + size / 2, top + size + 1), caption, fill=_INK, font=font, anchor="ma")


def _shorten_to_fit(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """The text, without its middle where it is wider than the cell."""
    if len(text) <= _MAX_LETTERS and font.getlength(text) <= width:
        return text

    def shorten(letters: int) -> str:
        head = (letters + 1) // 2
        return f"{text[:head]}…{text[len(text) - (letters - head) :]}"

    # The width grows with the number of letters, so that bisection finds the most that fit.
    fits = bisect.bisect_left(
        range(min(len(text), _MAX_LETTERS)),
        True,
        key=lambda letters: font.getlength(shorten(letters)) > width,
    )
    return shorten(max(fits - 1, 0))
