"""Ids that occur more than once: numbered where they are the images' own, else resolved."""

from __future__ import annotations

import polars as pl

from imgsim_assets.catalog.raw_rows import DETAIL, FILE, LINE, REASON
from imgsim_assets.catalog.settings import OnDuplicate

_POSITION = "__position"
_FIRST = "__first"


def number_repeats(rows: pl.DataFrame) -> pl.DataFrame:
    """Ids of valid rows with `#2`, `#3`, ... from the second row of an image on.

    Rows of other images do not change the numbers.
    """
    is_valid = pl.col(REASON).is_null()
    ids = rows.filter(is_valid)["id"]
    if ids.n_unique() == len(ids):
        return rows
    number = is_valid.cast(pl.UInt32).cum_sum().over("id")
    repeats = is_valid & (number > 1)
    numbered = rows.with_columns(
        pl.when(repeats).then(pl.format("{}#{}", "id", number)).otherwise("id").alias("id")
    )
    new = numbered.filter(is_valid)["id"]
    if new.n_unique() == len(new):
        return numbered
    return rows.with_columns(_renumbered(rows))


def _renumbered(rows: pl.DataFrame) -> pl.Series:
    """As `number_repeats`, where an image is itself named like a numbered one."""
    taken = set(rows["id"].to_list())
    seen: dict[str, int] = {}
    ids = []
    for image, reason in rows.select("id", REASON).iter_rows():
        if reason is None:
            number = seen.get(image, 0) + 1
            name = image
            while number > 1 and (name := f"{image}#{number}") in taken:
                number += 1
            seen[image] = number
            taken.add(name)
            image = name
        ids.append(image)
    return pl.Series("id", ids, pl.String)


def resolve_duplicates(rows: pl.DataFrame, policy: OnDuplicate) -> tuple[pl.DataFrame, list[str]]:
    """Reject the rows whose id another valid row has.

    Args:
        rows: in the order of the source.
        policy: `first` and `last` keep that row of an id, `reject` keeps none. Rows before the
            last one are no errors: they are removed, and a notice counts them.

    Returns:
        The rows, and the notices.
    """
    is_valid = pl.col(REASON).is_null()
    ids = rows.filter(is_valid)["id"]
    if ids.n_unique() == len(ids):
        return rows, []
    position = pl.col(_POSITION).filter(is_valid)
    kept = position.last() if policy == "last" else position.first()
    rows = rows.with_row_index(_POSITION)
    if policy == "reject":
        is_other = is_valid & (is_valid.sum().over("id") > 1)
    else:
        is_other = is_valid & (pl.col(_POSITION) != kept.over("id"))
    if policy == "last":
        current = rows.filter(~is_other).drop(_POSITION)
        count = rows.height - current.height
        return current, [
            f"rows replaced by later rows with the same id: {count} ('on_duplicate: last')"
        ]
    first = pl.struct(FILE, LINE).filter(is_valid).first().over("id")
    used = "the id is already used in {} line {}"
    if policy == "reject":
        used = "the id occurs more than once, first in {} line {}"
    rows = rows.with_columns(is_other.alias(_FIRST), first.alias("__used"))
    file, line = (pl.col("__used").struct.field(name) for name in (FILE, LINE))
    rows = rows.with_columns(
        pl.when(_FIRST).then(pl.lit("duplicate_id")).otherwise(REASON).alias(REASON),
        pl.when(_FIRST).then(pl.format(used, file, line)).otherwise(DETAIL).alias(DETAIL),
    )
    return rows.drop(_POSITION, _FIRST, "__used"), []


def spacing_notices(ids: pl.Series) -> list[str]:
    """A notice if ids differ only by the blanks around them."""
    spaced = ids.filter(ids.str.contains(r"^\s|\s$"))
    if not len(spaced):
        return []
    others = ids.unique()
    stripped = spaced.unique().str.strip_chars()
    same = stripped.filter(stripped.is_in(others.implode()) | stripped.is_duplicated())
    if not len(same):
        return []
    return [
        f"ids that differ from another only by the blanks around them: {len(same)}, such as "
        f"{same[0]!r}; they are different items"
    ]
