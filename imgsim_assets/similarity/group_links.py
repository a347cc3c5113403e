"""The links of duplicate groups: pairs of distinct images that are similar or the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.evidence.accepted_pairs import EvidenceRule, evident_pairs
from imgsim_assets.similarity.evidence.compare_pairs import PairEvidence
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.listed_images import ListedImages, row_of_each
from imgsim_assets.similarity.materialized import (
    NEIGHBOR_LISTS,
    RIGHT_ITEMS,
    MaterializedResult,
)
from imgsim_assets.similarity.neighbor_lists import ListBlock
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class ImageLinks:
    """The links of distinct images.

    Attributes:
        links: (p, 2) positions of images, a < b, sorted.
        files: what the next run needs.
        incremental: whether cached links were used.
        evidence: for all candidates; None where similarities alone decide.
    """

    links: Indices
    files: list[DataFile] = field(repr=False)
    incremental: bool
    evidence: PairEvidence | None = None


def image_links(
    store: Store,
    result: MaterializedResult,
    images: Items,
    turned: Items | None,
    threshold: float,
    rule: EvidenceRule | None,
) -> ImageLinks:
    """Update the links of images.

    Args:
        store: where the images are.
        result: the table of the groups, whose latest commit has earlier links.
        images: the distinct images.
        turned: the same in all orientations; None where all are compared upright.
        threshold: the minimum cosine of a link, where similarities alone decide.
        rule: which candidates count; None where similarities alone decide.
    """
    rows = turned or images
    # What gets a list each are the images, and of an earlier run they are on the right.
    cached = result.cached_lists(left=RIGHT_ITEMS)
    if rule is None:
        spec = JoinSpec(threshold, exclude_self=True)
        is_exact = result.properties[METHOD] != APPROXIMATE
        work = partial(_links_of_block, rows, is_exact)
        lists = updated_lists(result, rows, images, spec, work, role=NEIGHBOR_LISTS, cached=cached)
        links = np.unique(np.concatenate(lists.results), axis=0)
        return ImageLinks(links, lists.files, lists.incremental)
    found = evident_pairs(store, result, rows, images, rule, cached, exclude_self=True)
    links = link_positions(_of_images(found.rows, rows, images), images.keys["id"])
    return ImageLinks(links, found.files, found.incremental, found.evidence)


def link_positions(links: pl.DataFrame, keys: pl.Series) -> Indices:
    """The positions of linked images among sorted keys, (p, 2), a < b, sorted, each pair once.

    Args:
        links: pairs of different keys (left_id, right_id), in one direction or in both.
        keys: the keys of all images.
    """
    left, right = (keys.search_sorted(links[side]).to_numpy() for side in ("left_id", "right_id"))
    return _links(left, right)


def _links_of_block(rows: Items, is_exact: bool, lists: ListBlock) -> Indices:
    """The links of the images of a block.

    Exact lists have each pair in both directions. Of approximate ones, an image can have another
    as a candidate, and not the reverse.
    """
    start, stop = lists.block.start, lists.block.stop
    part = rows.slice(start, stop)
    pairs = _of_images(lists.lists, part, lists.right)
    if is_exact:
        pairs = pairs.filter(pl.col("left_id") < pl.col("right_id"))
    left = rows.numbers[start + row_of_each(part, pairs["left_id"])]
    return _links(left, row_of_each(lists.right, pairs["right_id"]))


def _links(left: Indices, right: Indices) -> Indices:
    ordered = np.sort(np.stack([left, right], axis=1).astype(np.int64), axis=1)
    return np.unique(ordered, axis=0)


def _of_images(pairs: pl.DataFrame, rows: Items, images: Items | ListedImages) -> pl.DataFrame:
    """The pairs of images of pairs of rows, of which each orientation of an image is one."""
    return item_pairs(pairs, rows, images) if rows.is_turned else pairs
