"""Cells that hold several images: lists, JSON in text, and URLs with a separator between them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from imgsim_assets.catalog.locations import IMAGE_FILE, JSON_CELL, SCHEMES, SEVERAL
from imgsim_assets.catalog.text import is_valid

# The keys of an object, or fields of a struct, that hold the image.
_IMAGE_KEYS = ("url", "src", "image_url", "image", "href", "link", "path")
# A separator that URLs may contain separates only in front of another URL.
_IN_URLS = re.compile(r"^[\w\-.~:/?#\[\]@!$&'()*+,;=%]+$")
_LOCATION = r"(?i:[a-z][a-z0-9]*://|//[a-z0-9\[]|data:[a-z])"
_MARK = "\x1f"
# In the order in which they are tried.
_SEPARATORS = ("\n", "|", ";", ",", " ")
_URL = re.compile(rf"(?i)(?:{'|'.join(SCHEMES)})://\S+")
_IS_SEVERAL, _IS_IMAGE_FILE = re.compile(SEVERAL), re.compile(IMAGE_FILE)
_MOST = 0.5
# Cells that a separator is looked for in, and characters of the longest image.
_SAMPLE_CELLS = 1000
_MAX_LENGTH = 2048


def several(cells: pl.Series) -> pl.Series:
    """Whether each cell holds several images, or an object: JSON, or text with a separator.

    Args:
        cells: text.
    """
    # One pattern over all cells: most lists have one image in each.
    found = cells.str.contains(f"{SEVERAL}|{JSON_CELL}")
    return found & ~cells.str.contains(r"(?i)^\s*data:") if found.any() else found


def is_list(cells: pl.Series) -> bool:
    """Whether cells are lists of images, or structs that hold one, by their type."""
    dtype = cells.dtype
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if isinstance(inner, pl.Struct):
        return _image_field(inner) is not None
    is_text = inner in (pl.String, pl.Null) or isinstance(inner, pl.Categorical | pl.Enum)
    return is_text and dtype.is_nested()


def image_lists(cells: pl.Series, separator: str | None = None) -> pl.Series:
    """The images of each cell, in their order.

    Args:
        cells: text, or lists for which `is_list` holds. JSON in text is read as such; other text
            is one image, unless there is a separator.
        separator: between the images of a text.

    Returns:
        List(String). Null is an empty list. JSON that cannot be read, and an object without an
        image, are one element as they are written, which begins as JSON does.
    """
    if cells.dtype != pl.String:
        return _typed_lists(cells)
    lists = _one_each(cells) if separator is None else _split(cells, separator)
    is_json = cells.str.contains(JSON_CELL).fill_null(value=False)
    if not is_json.any():
        return lists
    parsed = [_parse(cell) if own else None for cell, own in zip(cells, is_json, strict=True)]
    return lists.zip_with(~is_json, pl.Series(cells.name, parsed, pl.List(pl.String)))


def find_separator(cells: pl.Series) -> str | None:
    """The separator of text that holds several images, if one explains most such cells.

    Every part between separators must be a URL or the path of an image file.
    """
    texts = cells.filter(several(cells) & ~cells.str.contains(JSON_CELL)).head(_SAMPLE_CELLS)
    explained = {each: _count_explained(texts, each) for each in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda each: explained[each])
    return best if explained[best] > _MOST * len(texts) else None


def _select(cells: pl.Series, expr: pl.Expr) -> pl.Series:
    return cells.to_frame().select(expr).to_series()


def _count_explained(texts: pl.Series, separator: str) -> int:
    return sum(map(_are_images, _split(texts, separator)))


def _are_images(parts: Sequence[str | None]) -> bool:
    cleaned = [part.strip() for part in parts if part and part.strip()]
    return len(cleaned) > 1 and all(map(_is_image, cleaned))


def _is_image(part: str) -> bool:
    if len(part) > _MAX_LENGTH or _IS_SEVERAL.search(part):
        return False
    return bool(_URL.fullmatch(part) or ("://" not in part and _IS_IMAGE_FILE.search(part)))


def _split(cells: pl.Series, separator: str) -> pl.Series:
    """Text at each separator, as List(String)."""
    cell = pl.col(cells.name)
    between = r"\s" if separator == " " else pl.escape_regex(separator)
    marked = cell.str.replace_all(f"{between}+" if separator == " " else between, _MARK)
    if _IN_URLS.match(separator):
        before_url = cell.str.replace_all(rf"\s*(?:{between}\s*)+({_LOCATION})", f"{_MARK}$1")
        before_url = before_url.str.replace(rf"(?:\s*{between})+\s*$", "")
        marked = pl.when(cell.str.contains(rf"^\s*{_LOCATION}")).then(before_url).otherwise(marked)
    return _select(cells, marked.str.split(_MARK))


def _typed_lists(cells: pl.Series) -> pl.Series:
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    dtype = cells.dtype
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    if not isinstance(inner, pl.Struct):
        return cells.cast(pl.List(pl.String))
    field = _image_field(inner)
    if field is None:
        raise AssertionError(f"{dtype} holds no image")
    if isinstance(dtype, pl.List):
        return _select(cells, pl.col(cells.name).list.eval(pl.element().struct.field(field)))
    return _one_each(cells.struct.field(field).alias(cells.name))


def _one_each(cells: pl.Series) -> pl.Series:
    return _select(cells, pl.concat_list(cells.name))


def _image_field(struct: pl.Struct) -> str | None:
    return _image_key([field.name for field in struct.fields if field.dtype == pl.String])


def _image_key(names: Sequence[str]) -> str | None:
    by_lower_case = {name.lower(): name for name in reversed(names)}
    return next((by_lower_case[key] for key in _IMAGE_KEYS if key in by_lower_case), None)


def _parse(cell: str) -> list[str | None]:
    """The images of JSON, or of a Python list as Pandas writes it; unreadable text as it is."""
    try:
        document = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            document = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [cell]
    images = [_image_of(each) for each in (document if isinstance(document, list) else [document])]
    return images if all(image is None or is_valid(image) for image in images) else [cell]


def _image_of(element: Any) -> str | None:
    if isinstance(element, Mapping):
        key = _image_key([name for name in element if isinstance(name, str)])
        element = element[key] if key is not None else element
    if element is None or isinstance(element, str):
        return element
    # Such as an object without an image, which is then rejected.
    return json.dumps(element, default=str)
