"""Chooses the columns of a list that hold the images and the ids, by their cells.

A column is never chosen by its position.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.image_cells import image_lists, is_list
from imgsim_assets.catalog.locations import IMAGE_FILE, JSON_CELL, URL
from imgsim_assets.catalog.raw_rows import FILE, LINE
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.errors import SourceError

# The rows whose cells are looked at.
_SAMPLE_ROWS = 10_000
_MOST = 0.5
# Ids of a sample that may occur twice: such rows are rejected one by one.
_MAX_REPEATED = 0.05
_IMAGE_WORDS = re.compile(r"(?i)image|img|picture|photo|bild|foto")
_ID_WORDS = frozenset(
    [
        "id",
        "ids",
        "sku",
        "code",
        "key",
        "article",
        "artikel",
        "ean",
        "gtin",
        "upc",
        "asin",
        "isbn",
        "mpn",
        "uuid",
        "guid",
        "uid",
        "handle",
        "no",
        "nr",
        "num",
        "ref",
        "item",
    ]
)
_ID_ENDS = ("number", "nummer", "artnr", "code")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Ids without a name that tells: letters and digits, or long numbers such as an EAN.
_CODE = r"^(?:[\w./:-]{0,63}\d[\w./:-]*)$"
_LETTER = r"[A-Za-z]|^\d{8,}$"


@dataclass(frozen=True)
class ChosenColumns:
    """The columns of a list that hold the ids and the images.

    Attributes:
        id: that of the ids; the first of the images if there are no ids.
        urls: those of the images, in the order of an item's images.
    """

    id: str
    urls: tuple[str, ...]

    @property
    def has_ids(self) -> bool:
        """Whether ids have a column of their own; else the images are the ids."""
        return self.id not in self.urls


def choose_columns(frame: pl.DataFrame, settings: SourceSettings) -> ChosenColumns:
    """The declared columns, else those whose cells are URLs or image paths, and unique ids.

    Raises:
        SourceError: a declared column is missing, or several columns are candidates; the message
            lists them.
    """
    names = [name for name in frame.columns if name not in (FILE, LINE)]
    if not names:
        return ChosenColumns(settings.id or "id", settings.url_columns or ("url",))
    require_declared(names, settings)
    sample = frame.select(names).head(_SAMPLE_ROWS)
    urls = settings.url_columns or (_choose_url(sample, settings),)
    for url in urls:
        _require_images(sample, url, settings)
    chosen = ChosenColumns(settings.id or _choose_id(sample, urls, settings), urls)
    ids = sample[chosen.id].dtype
    if chosen.has_ids and (ids.is_nested() or ids == pl.Binary):
        raise SourceError(
            f"{settings.location}: column {chosen.id!r} holds {ids}, which is no id; set "
            "'id:' to another column"
        )
    return chosen


def require_declared(names: Sequence[str], settings: SourceSettings) -> None:
    """Check that a list has the declared columns of ids and images.

    Args:
        names: the columns of the list.
        settings: of the source.

    Raises:
        SourceError: it has not; the message lists the columns that it has.
    """
    declared = [("id", settings.id), *(("url", column) for column in settings.url_columns)]
    for key, column in declared:
        if column is not None and column not in names:
            raise SourceError(
                f"{settings.location}: there is no column {column!r}; set '{key}:' to one of "
                f"{quoted(names)}{_list_hint(key, column, names)}"
            )


def _list_hint(key: str, column: str, names: Sequence[str]) -> str:
    """How to write several columns, where their names are in one text."""
    parts = [part.strip() for part in column.split(",")]
    is_list = key == "url" and len(parts) > 1 and set(parts) <= set(names)
    return f"; several columns are a list: {_all_of(parts)}" if is_list else ""


def image_column(sample: pl.DataFrame) -> str | list[str]:
    """The column whose cells are images, or the candidates: none, or several.

    Embedded images go before names of image files, and these before other URLs. Among equals,
    `url` is taken unless the name of another one says that it holds images.
    """
    strengths = {name: _image_strength(sample[name]) for name in sample.columns}
    best = max(strengths.values(), default=0)
    candidates = [name for name, strength in strengths.items() if strength == best > 0]
    candidates = [name for name in candidates if not _is_part(sample, name, candidates)]
    # Further images of an item are in columns that most rows leave empty.
    candidates = [name for name in candidates if _is_filled(sample[name])] or candidates
    if len(candidates) == 1:
        return candidates[0]
    named = [name for name in candidates if name.lower() == "url"]
    others = [name for name in candidates if name not in named]
    if len(named) == 1 and not any(_IMAGE_WORDS.search(name) for name in others):
        return named[0]
    return candidates


def _is_filled(cells: pl.Series) -> bool:
    return cells.str.contains(r"\S").sum() > _MOST * len(cells)


def _is_part(sample: pl.DataFrame, name: str, others: Sequence[str]) -> bool:
    """Whether cells are the file names of the locations in another column."""
    others = [other for other in others if sample[other].dtype == pl.String]
    if sample[name].dtype != pl.String:
        return False
    file_names = pl.concat_str(pl.lit("/"), pl.col(name).str.strip_chars())
    return any(
        other != name
        and sample.select(pl.col(other).str.strip_chars().str.ends_with(file_names).mean()).item()
        > _MOST
        for other in others
    )


def as_text(values: pl.Series) -> pl.Series:
    """An id or url column as text; integers that are stored as floats lose the decimal point.

    A column of a nested type or of bytes is returned unchanged.
    """
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.String):
        return values
    if values.dtype.is_float() and values.is_finite().all() and (values == values.floor()).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.String)


def passed_over_notices(frame: pl.DataFrame, urls: Sequence[str]) -> list[str]:
    """Notices about columns whose name says ids, and some of whose cells are empty or repeated."""
    notices = []
    for name in frame.columns:
        values = frame[name].head(_SAMPLE_ROWS)
        if name in (FILE, LINE, *urls) or not _is_id_name(name) or values.dtype.is_nested():
            continue
        filled = values.drop_nulls().cast(pl.String).str.strip_chars()
        distinct = filled.filter(filled != "").n_unique()
        if _MOST * len(values) < distinct < len(values) and not _image_strength(values):
            notices.append(
                f"column {name!r} is not taken as the ids: {len(values) - distinct} of "
                f"{len(values)} cells are empty or repeated; set 'id:' to take it all the same"
            )
    return notices


def quoted(names: Sequence[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, names))


def _choose_url(sample: pl.DataFrame, settings: SourceSettings) -> str:
    found = image_column(sample)
    if isinstance(found, str):
        return found
    if found:
        raise SourceError(
            f"{settings.location}: which column holds the images? Set 'url:' to one of "
            f"{quoted(found)}; {_all_of(found + _further_images(sample, found))} takes the images "
            "of all as those of one item"
        )
    lists = _list_column(sample)
    if isinstance(lists, str):
        return lists
    named = [name for name in sample.columns if name.lower() == "url"]
    if "url" in named or len(named) == 1:
        return "url" if "url" in named else named[0]
    if sample.width == 1:
        return sample.columns[0]
    if lists:
        raise SourceError(
            f"{settings.location}: which column holds the lists of images? Set 'url:' to one of "
            f"{quoted(lists)}; {_all_of(lists)} takes the images of all as those of one item"
        )
    raise SourceError(
        f"{settings.location}: no column holds URLs or image paths; which one holds the images? "
        f"Set 'url:' to one of {quoted(sample.columns)}"
    )


def _all_of(names: Sequence[str]) -> str:
    return f"'url: [{', '.join(names)}]'"


def _list_column(sample: pl.DataFrame) -> str | list[str]:
    """The column whose cells are lists of images, or the candidates: none, or several."""
    strengths = {name: _list_strength(sample[name]) for name in sample.columns}
    best = max(strengths.values(), default=0)
    candidates = [name for name, strength in strengths.items() if strength == best > 0]
    named = [name for name in candidates if name.lower() == "url"]
    if len(named) == 1 or len(candidates) == 1:
        return (named or candidates)[0]
    return candidates


def _list_strength(values: pl.Series) -> int:
    """As `_image_strength`, of the images in cells that are lists; 0 if they are none."""
    if values.dtype == pl.String:
        if not values.str.contains(JSON_CELL).any():
            return 0
    elif not is_list(values):
        return 0
    return _image_strength(image_lists(values).explode())


def further_images_notices(frame: pl.DataFrame, url: str) -> list[str]:
    """A notice that names the columns of images that are not taken, where one was recognized."""
    sample = frame.select(pl.exclude(FILE, LINE)).head(_SAMPLE_ROWS)
    # A column with the same images has no further ones.
    others = [
        name for name in _further_images(sample, [url]) if not sample[name].equals(sample[url])
    ]
    if not others:
        return []
    are = "columns also hold" if len(others) > 1 else "column also holds"
    return [
        f"{are} images, which are not taken: {quoted(others)}; {_all_of([url, *others])} takes "
        "them as further images of each item"
    ]


def _further_images(sample: pl.DataFrame, urls: Sequence[str]) -> list[str]:
    return [
        name
        for name in sample.columns
        if name not in urls and _may_hold_images(sample, name) and not _is_part(sample, name, urls)
    ]


def _may_hold_images(sample: pl.DataFrame, name: str) -> bool:
    strength = max(_image_strength(sample[name]), _list_strength(sample[name]))
    return strength > 1 or (strength == 1 and _IMAGE_WORDS.search(name) is not None)


def _require_images(sample: pl.DataFrame, url: str, settings: SourceSettings) -> None:
    """Raise an error when the type of a column is none of images."""
    values = sample[url]
    is_other = values.dtype.is_nested() or values.dtype == pl.Binary
    if is_other and not is_list(values):
        raise SourceError(
            f"{settings.location}: column {url!r} holds {values.dtype}, which is no URL; set "
            "'url:' to another column"
        )


def _image_strength(values: pl.Series) -> int:
    """3 for embedded images, 2 for image files, 1 for other URLs, 0 for anything else."""
    if values.dtype != pl.String:
        return 0
    cells = values.filter(values.str.contains(r"\S"))
    patterns = ((3, r"(?i)^\s*(?:data:image/|sha256:)"), (2, IMAGE_FILE), (1, URL))
    for strength, pattern in patterns:
        if len(cells) and cells.str.contains(pattern).sum() > _MOST * len(cells):
            return strength
    return 0


def _choose_id(sample: pl.DataFrame, urls: Sequence[str], settings: SourceSettings) -> str:
    """The column of ids, or the first of the images if none is recognized."""
    others = [name for name in sample.columns if name not in urls]
    exact = [name for name in others if name.lower() == "id"]
    if "id" in exact or len(exact) == 1:
        return "id" if "id" in exact else exact[0]
    unique = [name for name in others if _is_unique(sample[name])]
    candidates = [name for name in unique if _is_id_name(name)] or [
        name for name in unique if _are_codes(sample[name])
    ]
    if len(candidates) > 1:
        raise SourceError(
            f"{settings.location}: which column holds the ids? Set 'id:' to one of "
            f"{quoted(candidates)}, or to {urls[0]!r} for no ids"
        )
    return candidates[0] if candidates else urls[0]


def _is_unique(values: pl.Series) -> bool:
    """Whether cells are filled and (nearly) distinct, and no images themselves."""
    if not (values.dtype.is_integer() or values.dtype == pl.String or values.dtype.is_float()):
        return False
    if not len(values) or values.null_count() or _image_strength(values):
        return False
    repeated = len(values) - values.n_unique()
    return repeated <= _MAX_REPEATED * len(values) and not _has_blank(values)


def _has_blank(values: pl.Series) -> bool:
    return values.dtype == pl.String and bool((~values.str.contains(r"\S")).any())


def _is_id_name(name: str) -> bool:
    words = _WORD.findall(name)
    return bool(words) and (words[-1].lower() in _ID_WORDS or words[-1].lower().endswith(_ID_ENDS))


def _are_codes(values: pl.Series) -> bool:
    text = as_text(values)
    return bool((text.str.contains(_CODE) & text.str.contains(_LETTER)).all())
