"""Which images of a catalog are compared: one row for each distinct image of an item.

Images that are left out stay in the record of a result's inputs, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.ignored import ignored_images
from imgsim_assets.similarity.items import LEFT_OUT, VALUE, Items
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS, read_role
from imgsim_assets.similarity.settings import ComparisonSettings, PairSettings
from imgsim_assets.similarity.values import values_within
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.row_blocks import RowBlocks, item_count
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# The reasons. The item has the same bytes under a lower number:
REPEATED = "repeated"
# More items have the image than max_shared:
SHARED = "shared"
# A list names the image, or one as near to it:
IGNORED = "ignored"
# The item has no value to agree in:
NO_VALUE = "no_value"
# An earlier image of the item is compared, with compare: first:
NOT_FIRST = "not_first"
# Property of a result: what decided which images are as near to a listed one.
_IGNORE_RULE = "ignore_rule"

# An image that more than half of the items have tells none of them apart. Of fewer items than
# these, more than half are too few to say so.
_MIN_ITEMS = 4
_MIN_CARRIERS = 3


def compared(
    items: Items,
    settings: ComparisonSettings,
    *,
    values: pl.DataFrame | None = None,
    ignored: NDArray[np.bool_] | None = None,
) -> Items:
    """The images of a catalog that are compared, by id and sha256.

    Args:
        items: all images of the catalog, by id and image.
        settings: which images count.
        values: what the items of a pair agree in (id, value); None where all are compared.
        ignored: (n,) which images are ignored; None for none.

    Returns:
        The rows of a join; `source` has all images, and says why some are left out.
    """
    has_one_each = values is None and ignored is None and items.max_images == 1
    if has_one_each and (settings.max_shared is None or items.images.once(_are_distinct)):
        return items
    if values is not None:
        keys = items.keys.join(values, on="id", how="left", maintain_order="left")
        items = Items(keys, items.blocks)
    has_several = items.max_images > 1
    image = pl.col("sha256")
    reasons = pl.lit(None, pl.String)
    if has_several:
        is_repeated = ~pl.struct("id", "sha256").is_first_distinct()
        reasons = pl.when(is_repeated).then(pl.lit(REPEATED))
    left_out = items.keys.with_columns(reasons.alias(LEFT_OUT))
    # Before other reasons, so that the record of a result has all ignored images.
    if ignored is not None:
        left_out = _where(left_out, pl.lit(pl.Series(ignored)), IGNORED)
    if settings.max_shared is not None and left_out["sha256"].n_unique() < len(items):
        # An item counts once: its repeated images are null here.
        carriers = pl.when(pl.col(LEFT_OUT).is_null()).then(image).count().over("sha256")
        left_out = _where(left_out, carriers > settings.max_shared, SHARED)
    if values is not None:
        left_out = _where(left_out, pl.col(VALUE).is_null(), NO_VALUE)
    if has_several and settings.compare == "first":
        # Of the images that are left, in the order of their numbers.
        position = pl.col(LEFT_OUT).is_null().cum_sum().over("id")
        left_out = _where(left_out, position > 1, NOT_FIRST)
    return _narrowed(items, left_out[LEFT_OUT])


def _are_distinct(images: RowBlocks) -> bool:
    """Whether no two images have one hash of their sha256, and are the same image."""
    hashes = [block["sha256"].hash().to_numpy() for _, block in images.blocks(["sha256"])]
    ordered = np.sort(np.concatenate(hashes))
    return bool((ordered[1:] != ordered[:-1]).all())


class Selection(NamedTuple):
    """The images of some catalogs that are compared.

    Attributes:
        items: `compared` of each catalog.
        recipe: properties that a result of them has beside its settings.
    """

    items: list[Items]
    recipe: Mapping[str, str | None]


def select_images(
    store: Store,
    settings: PairSettings,
    root: Path,
    catalogs: Sequence[CatalogItems],
    *,
    table: Table | None = None,
    latest: Commit | None = None,
) -> Selection:
    """The images that are compared, by the values and the list that the settings name.

    Args:
        store: the store of the catalogs.
        settings: which images and items are compared.
        root: the project's root, from which the paths of an ignore list start.
        catalogs: catalogs of one encoder.
        table: a result of these catalogs; no vector of an image that it has decided is read.
        latest: its latest commit.

    Raises:
        SettingsError: when the ignore list, or a file that it names, cannot be read.
        StoreError: when a catalog lacks a column of `within`.
    """
    decided = partial(_decided_images, table, latest)
    ignored = ignored_images(store, settings.ignore, root, catalogs, decided)
    selected = [
        compared(
            each.items,
            settings,
            values=values_within(store, each.name, settings.within),
            ignored=mask,
        )
        for each, mask in zip(catalogs, ignored.masks, strict=True)
    ]
    return Selection(selected, {_IGNORE_RULE: ignored.rule})


def _decided_images(table: Table | None, latest: Commit | None, rule: str) -> pl.DataFrame:
    """The images (sha256) of a result, and whether the rule has decided that they are ignored."""
    images = pl.DataFrame(schema={"sha256": pl.String, LEFT_OUT: pl.String})
    if table is not None and latest is not None and latest.properties.get(_IGNORE_RULE) == rule:
        with suppress(CorruptFileError):
            recorded = [read_role(table, latest, role) for role in (LEFT_ITEMS, RIGHT_ITEMS)]
            found = [each for each in recorded if each is not None]
            images = pl.concat([images, *found], how="diagonal")
    return images.select("sha256", is_near=(pl.col(LEFT_OUT) == IGNORED).fill_null(value=False))


def _where(rows: pl.DataFrame, condition: pl.Expr, reason: str) -> pl.DataFrame:
    """The rows, with the reason where the condition holds and there is none yet."""
    current = pl.col(LEFT_OUT)
    return rows.with_columns(
        pl.when(current.is_null() & condition)
        .then(pl.lit(reason))
        .otherwise(current)
        .alias(LEFT_OUT)
    )


def _narrowed(items: Items, left_out: pl.Series) -> Items:
    is_compared = left_out.is_null()
    if is_compared.all() and items.max_images == 1:
        return items
    source = items.keys
    if not is_compared.all():
        source = source.with_columns(left_out)
    rows = items.keys.with_row_index("row").filter(is_compared).sort("id", "sha256")
    numbers = rows["row"].to_numpy().astype(np.int64)
    return Items(rows.drop("row"), items.blocks.take(numbers), source)


def left_out_counts(*sides: Items) -> dict[str, int]:
    """How many images are left out, by reason."""
    counts = pl.concat(_left_out(items) for items in sides)[LEFT_OUT].value_counts()
    return dict(sorted(counts.iter_rows()))


def shared_images(catalogs: Mapping[str, Items]) -> pl.DataFrame:
    """The images that too many items have: catalog, sha256 and items, the most shared first."""
    shared = pl.concat(
        _left_out(items).with_columns(pl.lit(name).alias("catalog"))
        for name, items in catalogs.items()
    ).filter(pl.col(LEFT_OUT) == SHARED)
    return (
        shared.group_by("catalog", "sha256")
        .agg(pl.len().cast(pl.Int64).alias("items"))
        .sort(["items", "catalog", "sha256"], descending=[True, False, False])
    )


def common_images(catalogs: Mapping[str, Items]) -> pl.DataFrame:
    """The compared images that more than half of a catalog's items have, such as a size chart.

    Args:
        catalogs: the compared images of each catalog.

    Returns:
        catalog, sha256, id and image (where it is first), items (how many have it) and
        catalog_items (of how many), the most common first. Catalogs of fewer than 4 items, and
        images of fewer than 3, have none.
    """
    found = []
    for name, items in catalogs.items():
        total = item_count(items.recorded)
        fewest = max(_MIN_CARRIERS, total // 2 + 1)
        common = (
            _frequent_images(items)
            .sort("id", "image")
            .unique(["id", "sha256"], keep="first", maintain_order=True)
            .group_by("sha256")
            .agg(pl.first("id", "image"), pl.len().cast(pl.Int64).alias("items"))
            .filter((pl.col("items") >= fewest) & (total >= _MIN_ITEMS))
        )
        named = common.select(pl.lit(name).alias("catalog"), "sha256", "id", "image", "items")
        found.append(named.with_columns(pl.lit(total, pl.Int64).alias("catalog_items")))
    by_items = ["items", "catalog", "sha256"]
    return pl.concat(found).sort(by_items, descending=[True, False, False])


def _frequent_images(items: Items) -> pl.DataFrame:
    """The rows of all images that more than half of the items have, and perhaps of others.

    Such an image is one of more than half of the items of some block.
    """
    if items.images.once(_are_distinct):
        return items.images.read(0, 0)
    of_blocks = []
    for block in items.id_blocks:
        pairs = items.images.read(block.start, block.stop, ["id", "sha256"]).unique()
        count = pairs["id"].n_unique()
        carriers = pairs["sha256"].value_counts().filter(2 * pl.col("count") > count)
        of_blocks.append(carriers["sha256"])
    frequent = pl.concat(of_blocks).unique()
    is_frequent = pl.col("sha256").is_in(frequent.implode())
    return items.images.filter(is_frequent)


def describe_common_images(common: pl.DataFrame, setting: str, shown: int = 3) -> list[str]:
    """What is to be said of `common_images`, in lines; none where there are none.

    Args:
        common: a frame of `common_images`.
        setting: how the largest number of items is set, such as "--max-shared".
        shown: how many images are named.
    """
    if not common.height:
        return []
    lines = [
        f"image {row['image']} of item {row['id']!r} is an image of {row['items']} of "
        f"{row['catalog_items']} items of {row['catalog']}, and may decide their matches"
        for row in common.head(shown).iter_rows(named=True)
    ]
    if common.height > shown:
        lines.append(f"{common.height - shown} more images of more than half of the items")
    fewest = common.select(pl.col("items").min()).item()
    return [
        *lines,
        f"to leave out such images, for instance size charts, set {setting} {fewest - 1}",
    ]


def _left_out(items: Items) -> pl.DataFrame:
    """The images that are left out: sha256 and left_out."""
    if LEFT_OUT not in items.recorded.columns:
        return pl.DataFrame(schema={"sha256": pl.String, LEFT_OUT: pl.String})
    schema = pl.Schema({"sha256": pl.String, LEFT_OUT: pl.String})
    is_out = pl.col(LEFT_OUT).is_not_null()
    return items.recorded.map(
        lambda block: block.filter(is_out).select(schema.names()), schema
    ).all()
