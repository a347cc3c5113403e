"""Results that probe every list are those of an exact computation, whatever is compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity.approximate import sample, search, training
from imgsim_assets.similarity.approximate.search import recall_of
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import VALUE, Items, turned_keys
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import (
    NEIGHBOR_LISTS,
    ORIENTATIONS_PROPERTY,
    MaterializedResult,
)
from imgsim_assets.similarity.neighbor_lists import ListBlock, neighbor_lists
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD, MIN_RECALL
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.vectors import families

_DIM = 8


@pytest.fixture(scope="module", autouse=True)
def _many_small_lists_that_are_all_probed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_MIN_ROWS_PER_LIST", 2)
        patch.setattr(search, "enough_probes", lambda *_: 1 << 16)
        yield


@st.composite
def _items(draw: st.DrawFn, prefix: str, *, has_values: bool, is_turned: bool) -> Items:
    """Items of one to three images, some of which several items have."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    pool = families(40, _DIM, seed=5)
    rows = [
        (f"{prefix}{number:02d}", image, content)
        for number, count in enumerate(counts)
        for image, content in enumerate(
            draw(st.lists(st.integers(0, 39), min_size=count, max_size=count, unique=True))
        )
    ]
    keys = pl.DataFrame(rows, schema={"id": str, "image": pl.Int32, "content": int}, orient="row")
    keys = keys.with_columns(pl.col("content").cast(pl.String).str.zfill(2).alias("sha256"))
    if has_values:
        keys = keys.with_columns((pl.col("id").rle_id() % 3).cast(pl.String).alias(VALUE))
    keys = keys.sort("id", "sha256")
    contents = keys["content"].to_numpy()
    keys = keys.drop("content")
    if not is_turned:
        return Items(keys, pool[contents])
    turned = families(40 * len(ORIENTATIONS), _DIM, seed=6).reshape(40, len(ORIENTATIONS), _DIM)
    turned[:, 0] = pool
    return Items(turned_keys(keys), turned[contents].reshape(-1, _DIM), keys)


def _pairs(block: ListBlock) -> pl.DataFrame:
    return block.lists


def _updated(table: Table, left: Items, right: Items, spec: JoinSpec) -> pl.DataFrame:
    """The lists of an approximate result, after it is committed."""
    result = MaterializedResult.for_recipe(
        table,
        table.latest(),
        {METHOD: APPROXIMATE, MIN_RECALL: 0.9, ORIENTATIONS_PROPERTY: left.is_turned or None},
    )
    lists = updated_lists(
        result,
        left,
        right,
        spec,
        _pairs,
        role=NEIGHBOR_LISTS,
        cached=result.cached_lists(),
    )
    result.commit(lists.files, left, right, {})
    return pl.concat(lists.results)


@given(
    data=st.data(),
    has_values=st.booleans(),
    is_turned=st.booleans(),
    is_one_set=st.booleans(),
    k=st.sampled_from([None, 1, 3]),
    threshold=st.sampled_from([-1.0, 0.3, 0.9]),
)
@settings(max_examples=15, deadline=None)
def test_lists_and_their_update_are_those_of_an_exact_join(
    data: st.DataObject,
    has_values: bool,
    is_turned: bool,
    is_one_set: bool,
    k: int | None,
    threshold: float,
) -> None:
    spec = JoinSpec(threshold, k, exclude_self=is_one_set)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "_MEASURED_ROWS", data.draw(st.sampled_from([2, 9, 1000]), "sample"))
        table = Store.open(Path(folder)).table("matches/pair")
        for state in ("full", "update"):
            left = data.draw(_items("i", has_values=has_values, is_turned=is_turned), state)
            right = left.upright
            if not is_one_set:
                right = data.draw(_items("j", has_values=has_values, is_turned=False), state)
            with small_blocks(rows=data.draw(st.sampled_from([2, 50]), "rows of a block")):
                found = _updated(table, left, right, spec)

            expected = neighbor_lists(left, right, spec)
            assert item_pairs(found, left, right, k).equals(item_pairs(expected, left, right, k))
            recall = recall_of(latest_commit(table))
            assert recall is not None
            assert recall.found == recall.pairs
            assert bool(recall.pairs) <= bool(expected.height)
