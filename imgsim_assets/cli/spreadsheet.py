"""Cells that a spreadsheet shows as text and does not compute."""

from __future__ import annotations

import polars as pl
import polars.selectors as cs

from imgsim_assets.text import REPLACEMENT, UNPRINTABLE

# What a spreadsheet takes for a formula, also in full width and behind blanks. A number is none.
_FORMULA = r"^(?:[\t\r\n]|[\s\x{200b}\x{feff}]*[=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}])"
_NUMBER = r"^[+-]?[0-9]+(?:[.,][0-9]+)*(?:[eE][+-]?[0-9]+)?$"


def for_spreadsheet(frame: pl.DataFrame) -> pl.DataFrame:
    """Text and names of columns with an apostrophe before what looks like a formula.

    Line breaks become line feeds, and other control characters are replaced.
    """
    cells = frame.with_columns(_neutralized(cs.string()))
    names = pl.DataFrame({"name": frame.columns}).select(_neutralized(pl.col("name")))
    return cells.rename(dict(zip(frame.columns, names["name"], strict=True)))


def _neutralized(text: pl.Expr) -> pl.Expr:
    is_formula = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
    lines = text.str.replace_all("\r\n?", "\n")
    clean = lines.str.replace_all(UNPRINTABLE, REPLACEMENT)
    return pl.when(is_formula).then(pl.lit("'") + clean).otherwise(clean).name.keep()


def neutralized(text: str) -> str:
    """One text as `for_spreadsheet` writes it."""
    cell: str = pl.DataFrame({"text": [text]}).select(_neutralized(pl.col("text"))).item()
    return cell
