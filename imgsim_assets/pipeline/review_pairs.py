"""Which pairs of a match table a person should judge, and what the judged ones measure."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import Precision, in_random_order, precision_of
from imgsim_assets.reviews.table import reviews_table
from imgsim_assets.similarity.candidates import best_candidates, sampled_keys
from imgsim_assets.similarity.decided import score_pairs
from imgsim_assets.similarity.item_pairs import SCHEMA
from imgsim_assets.similarity.items import LEFT_OUT, Items, with_vectors
from imgsim_assets.similarity.matches import MATCHES, decisions_about, match_table, reviewed_name
from imgsim_assets.similarity.materialized import (
    LEFT_ITEMS,
    ORIENTATIONS_PROPERTY,
    RIGHT_ITEMS,
    read_role,
)
from imgsim_assets.similarity.orientations import stored_turned
from imgsim_assets.similarity.population import matches_before_decisions
from imgsim_assets.similarity.review_threshold import MAX_PRODUCTS, threshold_of
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_PAIR = ["left_id", "right_id"]
_VERSIONS = 4


def random_matches(store: Store, name: str, n: int) -> pl.DataFrame:
    """The next n matches to judge for the precision, drawn uniformly at random.

    Args:
        store: the store.
        name: a match table, such as "products__suppliers".
        n: how many, at most.

    Returns:
        left_id, right_id, similarity and, of both, image and sha256, in the order in which they
        are drawn, without those that are judged. Pairs that decisions removed belong to the
        population too.

    Raises:
        StoreError: when the store has no such match table.
    """
    version = _newest(store, name)
    population = _in_random_order(store, version.key)
    return _undecided(store, version, population).head(n)


def informative_pairs(store: Store, name: str, n: int) -> pl.DataFrame:
    """The n pairs to judge that tell most about the threshold: the nearest to it, on both sides.

    Above are the matches, below the best candidates of left items without one; of a large
    catalog, those of a fixed sample of them.

    Args:
        store: the store.
        name: a match table, such as "products__suppliers".
        n: how many, at most.

    Returns:
        As of `random_matches`; the nearest pair above, the nearest below, the next above, ...

    Raises:
        StoreError: when the store has no such match table.
    """
    version = _newest(store, name)
    threshold = version.commit.properties["threshold"]
    matches = _in_random_order(store, version.key)
    above = _undecided(store, version, matches.filter(pl.col("similarity") >= threshold))
    candidates = _below(store, version.key)
    below = _undecided(store, version, candidates)
    sides = [
        above.sort("similarity", *_PAIR),
        below.sort(["similarity", *_PAIR], descending=[True, False, False]),
    ]
    numbered = pl.concat(
        side.with_row_index("__rank").with_columns(pl.lit(number).alias("__side"))
        for number, side in enumerate(sides)
    )
    return numbered.sort("__rank", "__side").drop("__rank", "__side").head(n)


def match_precision(store: Store, name: str) -> Precision | None:
    """The precision of a match table before decisions; None before enough pairs are judged.

    Args:
        store: the store.
        name: a match table, such as "products__suppliers".

    Raises:
        StoreError: when the store has no such match table.
    """
    version = _newest(store, name)
    if reviews_table(store, reviewed_name(version.table.name)).latest() is None:
        return None
    population = _in_random_order(store, version.key)
    return precision_of(population, _decisions(store, version))


def judged_matches(store: Store, catalog: str) -> list[dict[str, float | int | str | None]]:
    """What decisions measure of the declared match tables of a catalog, a row for each.

    Returns:
        matches, threshold, judged_pairs (around the threshold, where they gave it), and precision,
        precision_low, precision_high and sample, where enough of a random sample is judged.
    """
    rows: list[dict[str, float | int | str | None]] = []
    for name in store.table_names():
        commit = store.table(name).latest() if name.startswith(MATCHES) else None
        if commit is None or reviewed_name(name) != name.removeprefix(MATCHES):
            continue
        properties = commit.properties
        if catalog not in (properties["left"], properties["right"]):
            continue
        precision = match_precision(store, name.removeprefix(MATCHES))
        decided = threshold_of(store, commit)
        if precision is not None or decided is not None:
            rows.append(
                {
                    "matches": name.removeprefix(MATCHES),
                    "threshold": properties["threshold"],
                    "judged_pairs": decided.pairs if decided is not None else None,
                    "precision": precision.value if precision is not None else None,
                    "precision_low": precision.low if precision is not None else None,
                    "precision_high": precision.high if precision is not None else None,
                    "sample": precision.sampled if precision is not None else None,
                }
            )
    return rows


class _Key(NamedTuple):
    """A version of a table; its number alone would also be that of a table computed again."""

    table: str
    version: int
    commit_id: str


class _Version(NamedTuple):
    table: Table
    commit: Commit

    @property
    def key(self) -> _Key:
        return _Key(self.table.name, self.commit.version, self.commit.commit_id)


def _newest(store: Store, name: str) -> _Version:
    """The newest version of a match table, or of the variant of it that was computed last."""
    declared = match_table(store, name)
    commit = declared.latest()
    if commit is not None:
        return _Version(declared, commit)
    tables = [table for table in store.table_names() if table.startswith(MATCHES)]
    variants = [store.table(table) for table in tables if reviewed_name(table) == name]
    found = [_Version(table, commit) for table in variants if (commit := table.latest())]
    if not found:
        existing = ", ".join(dict.fromkeys(map(reviewed_name, tables))) or "none"
        raise StoreError(f"{store.url} has no match table {name!r}; it has {existing}")
    return max(found, key=lambda version: version.commit.committed_at)


@lru_cache(maxsize=_VERSIONS)
def _in_random_order(store: Store, key: _Key) -> pl.DataFrame:
    of_version = _at(store, key)
    rows = of_version.table.read(of_version.commit)
    return in_random_order(matches_before_decisions(of_version.table, of_version.commit, rows))


@lru_cache(maxsize=_VERSIONS)
def _below(store: Store, key: _Key) -> pl.DataFrame:
    """The best candidates below the threshold of left items without a match."""
    of_version = _at(store, key)
    properties = of_version.commit.properties
    with_itself = properties["left"] == properties["right"]
    matched = _in_random_order(store, key)["left_id"].unique()
    keys = _compared(of_version, LEFT_ITEMS)
    unmatched = keys.filter(~pl.col("id").is_in(matched.implode()))
    right = _with_vectors(store, of_version, "right", _compared(of_version, RIGHT_ITEMS))
    is_turned = bool(properties.get(ORIENTATIONS_PROPERTY)) and not with_itself
    products = len(right) * (len(ORIENTATIONS) if is_turned else 1)
    count = max(1, MAX_PRODUCTS // max(1, products))
    left = _with_vectors(store, of_version, "left", sampled_keys(unmatched, count))
    if is_turned:
        left = stored_turned(store, properties["left"], properties[FINGERPRINT], left)
    pairs = best_candidates(
        left, right, matched.clear(), exclude_self=with_itself, max_products=MAX_PRODUCTS
    )
    if with_itself:
        ends = pl.min_horizontal(_PAIR), pl.max_horizontal(_PAIR)
        pairs = pairs.with_columns(left_id=ends[0], right_id=ends[1]).unique(_PAIR)
        left = right
    scored = score_pairs(pairs.select(_PAIR), left, right)
    return scored.filter(pl.col("similarity") < properties["threshold"]).select(list(SCHEMA))


def _at(store: Store, key: _Key) -> _Version:
    table = store.table(key.table)
    return _Version(table, table.at(key.version))


def _undecided(store: Store, version: _Version, pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs without those that are judged, in their order."""
    standing = _decisions(store, version).standing
    return pairs.join(standing, on=_PAIR, how="anti", maintain_order="left")


def _decisions(store: Store, version: _Version) -> Decisions:
    properties = version.commit.properties
    left, right = (RowBlocks.of(_recorded(version, role)) for role in (LEFT_ITEMS, RIGHT_ITEMS))
    with_itself = properties["left"] == properties["right"]
    return decisions_about(store, version.table.name, left, right, with_itself=with_itself)


def _recorded(version: _Version, role: str) -> pl.DataFrame:
    """All images of the items of a side, as the version has recorded them."""
    recorded = read_role(version.table, version.commit, role)
    if recorded is None:
        return pl.DataFrame(schema={"id": pl.String, "image": pl.Int32, "sha256": pl.String})
    return recorded


def _compared(version: _Version, role: str) -> pl.DataFrame:
    """The images of a side that were compared, by id and sha256."""
    rows = _recorded(version, role)
    if LEFT_OUT in rows.columns:
        rows = rows.filter(pl.col(LEFT_OUT).is_null()).drop(LEFT_OUT)
    return rows.sort("id", "sha256")


def _with_vectors(store: Store, version: _Version, side: str, keys: pl.DataFrame) -> Items:
    """The images whose vectors the store still has."""
    name, fingerprint = version.commit.properties[side], version.commit.properties[FINGERPRINT]
    missing = VectorTable(store, name, fingerprint).missing(keys["sha256"].to_list())
    kept = keys.filter(~pl.col("sha256").is_in(sorted(missing))) if missing else keys
    return with_vectors(store, name, fingerprint, kept)
