"""A version of a match table as people review it: its pairs, its items and the decisions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import vectors_of
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import PAIR, empty_reviews, read_reviews, reviews_table
from imgsim_assets.service.errors import GoneError
from imgsim_assets.service.frame_cache import FrameCache
from imgsim_assets.service.view import View
from imgsim_assets.similarity.candidates import sampled_keys
from imgsim_assets.similarity.cosine import Floats, Indices
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE_RULE
from imgsim_assets.similarity.evidence.tiers import SIMILAR
from imgsim_assets.similarity.items import LEFT_OUT, Items
from imgsim_assets.similarity.matches import match_table, reviewed_name
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS, read_role
from imgsim_assets.similarity.nearest_items import nearest_items
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
# Comparisons of items that the best scores of a table take at most; more items are sampled.
_MAX_COMPARISONS = 400_000_000
# Tables that stay in memory with the vectors of their right items, and images of a left side whose
# vectors stay, too: a single one is read with its whole file.
_MAX_TABLES = 2
_MAX_IN_MEMORY = 100_000


@dataclass(frozen=True, eq=False)
class ReviewSide:
    """The items of one side of a match table, as that version compared them.

    Attributes:
        store: The store.
        catalog: Name of the catalog.
        fingerprint: Of the encoder of the vectors.
        images: All images of the items: id, image and sha256, by id and image.
        keys: Those that are compared, by id and sha256, with `value` where the table has `within`.
    """

    store: Store
    catalog: str
    fingerprint: str
    images: pl.DataFrame
    keys: pl.DataFrame

    @cached_property
    def items(self) -> Items:
        """The compared images with their vectors."""
        return self._with_vectors(self.keys)

    def items_of(self, ids: pl.Series) -> Items:
        """The compared images of some items, with their vectors."""
        is_chosen = self.keys["id"].is_in(ids.implode())
        if len(self.keys) <= _MAX_IN_MEMORY:
            return self.items.where(is_chosen.to_numpy())
        return self._with_vectors(self.keys.filter(is_chosen))

    @cached_property
    def count(self) -> int:
        """The number of items that are compared."""
        return self.keys["id"].n_unique()

    def vectors_of(self, images: pl.Series) -> tuple[Floats, Indices]:
        """The vectors of distinct images (sha256), and the row of each image among them.

        Raises:
            StoreError: Vectors are missing or damaged.
        """
        found = VectorTable(self.store, self.catalog, self.fingerprint).read(images)
        position = {sha256: row for row, sha256 in enumerate(found.sha256)}
        return found.vectors, np.array([position[each] for each in images], dtype=np.int64)

    def _with_vectors(self, keys: pl.DataFrame) -> Items:
        table = VectorTable(self.store, self.catalog, self.fingerprint)
        return Items(keys, vectors_of(table, keys["sha256"]))


@dataclass(frozen=True, eq=False)
class ReviewTable:
    """A version of a match table.

    Attributes:
        store: The store.
        name: Of the match table, without `matches/`.
        commit: The version.
        rows: Its matches.
        left: The left items.
        right: The right items.
        cache: Keeps what is computed of them.
    """

    store: Store
    name: str
    commit: Commit
    rows: pl.DataFrame
    left: ReviewSide
    right: ReviewSide
    cache: FrameCache

    @classmethod
    def read(cls, view: View, name: str, commit: Commit) -> ReviewTable:
        """Read a version.

        Raises:
            StoreError: It does not say which items it compared.
        """
        store = view.store
        table = match_table(store, name)
        properties = commit.properties
        sides = []
        for side, role in (
            (properties.get("left"), LEFT_ITEMS),
            (properties.get("right"), RIGHT_ITEMS),
        ):
            recorded = read_role(table, commit, role)
            if recorded is None or side is None:
                raise StoreError(
                    f"matches/{name} version {commit.version} was written by an earlier version of "
                    "imgsim_assets; materialize it again"
                )
            sides.append(_side(store, str(side), properties[FINGERPRINT], recorded))
        left, right = sides
        rows = table.read(commit)
        if left.catalog == right.catalog:
            rows = _pairs_once(rows)
        return cls(store, name, commit, rows, left, right, view.cache)

    @property
    def threshold(self) -> float:
        """The smallest similarity of a match; with evidence, of a match without any."""
        properties = self.commit.properties
        rule = properties.get(EVIDENCE_RULE) or {}
        similar_from = rule.get(SIMILAR)
        return float(properties["threshold"] if similar_from is None else similar_from)

    @property
    def is_with_itself(self) -> bool:
        """Whether both sides are one catalog."""
        return self.left.catalog == self.right.catalog

    @cached_property
    def matched(self) -> pl.DataFrame:
        """The left items that have a match: left_id."""
        matched = self.rows.select("left_id")
        if self.is_with_itself:
            matched = pl.concat([matched, self.rows.select(left_id="right_id")])
        return matched.unique()

    def side(self, side: Side) -> ReviewSide:
        """The items of one side."""
        return self.left if side == "left" else self.right

    def nearest(self, left: Items, k: int) -> pl.DataFrame:
        """The k right items nearest to some left items, whether they match or not."""
        compare: Any = self.commit.properties.get("compare", "any")
        return nearest_items(left, self.right.items, k, compare, exclude_self=self.is_with_itself)

    @property
    def best_scores(self) -> pl.DataFrame:
        """The nearest right item of each left item, or of a sample of very many.

        A frame as of `item_pairs.SCHEMA`.
        """
        return self.cached("best scores", self._compute_best_scores)

    def _compute_best_scores(self) -> pl.DataFrame:
        sampled = max(1, _MAX_COMPARISONS // max(len(self.right.keys), 1))
        if sampled >= self.left.count:
            return self.nearest(self.left.items, 1)
        ids = sampled_keys(self.left.keys, sampled)["id"].unique()
        return self.nearest(self.left.items_of(ids), 1)

    def cached(self, key: str, compute: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """A frame that depends on this version only; of several threads, one computes it."""
        return self.cache.get(("review", self.commit.commit_id, key), compute)

    def decisions(self) -> Decisions:
        """People's decisions about the images of this version, those made just now included."""
        table = reviews_table(self.store, reviewed_name(self.name))
        newest = table.latest()
        if newest is None:
            return Decisions.of(empty_reviews(), self.left.images, self.right.images)
        reviews = self.cache.get(
            (table.name, newest.commit_id), lambda: read_reviews(table, newest)
        )
        return Decisions.of(
            reviews, self.left.images, self.right.images, with_itself=self.is_with_itself
        )


class ReviewTables:
    """The versions of match tables that were reviewed lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, ReviewTable] = OrderedDict()

    def get(self, view: View, name: str, version: int | None = None) -> ReviewTable:
        """A version of a match table; default: that of the view.

        Raises:
            NotFoundError: The store has no such match table.
            GoneError: The version was deleted.
        """
        commit = view.commit(f"matches/{name}")
        if version is not None and version != commit.version:
            try:
                commit = match_table(view.store, name).at(version)
            except StoreError as error:
                raise GoneError(f"{error}; reload the page") from error
        with self._lock:
            if commit.commit_id not in self._tables:
                self._tables[commit.commit_id] = ReviewTable.read(view, name, commit)
            self._tables.move_to_end(commit.commit_id)
            while len(self._tables) > _MAX_TABLES:
                self._tables.popitem(last=False)
            return self._tables[commit.commit_id]


def _pairs_once(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of a catalog that is matched with itself: each pair once, no item with itself."""
    others = rows.filter(pl.col("left_id") != pl.col("right_id"))
    ends = pl.min_horizontal(PAIR), pl.max_horizontal(PAIR)
    is_first = pl.struct(first=ends[0], second=ends[1]).is_first_distinct()
    return others.sort(PAIR).filter(is_first)


def _side(store: Store, catalog: str, fingerprint: str, recorded: pl.DataFrame) -> ReviewSide:
    is_compared = pl.lit(value=True)
    if LEFT_OUT in recorded.columns:
        is_compared = pl.col(LEFT_OUT).is_null()
    keys = recorded.filter(is_compared).drop(LEFT_OUT, strict=False).sort("id", "sha256")
    images = recorded.select("id", "image", "sha256").sort("id", "image")
    return ReviewSide(store, catalog, fingerprint, images, keys)
