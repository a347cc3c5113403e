"""Samples of a catalog that is searched in itself: an item is no neighbor of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from imgsim_assets.similarity.approximate import sample
from imgsim_assets.similarity.approximate.sample import PairsOf, pairs_to_choose_by, recall_meter
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.neighbor_lists import neighbor_lists
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vectors import families

_PAIR = ["left_id", "right_id"]


def _items() -> Items:
    """Items of one to three images, some of which are equal."""
    of_item = np.repeat(np.arange(24), np.arange(24) % 3 + 1)
    content = np.arange(len(of_item)) * 7 % 40
    keys = pl.DataFrame(
        {
            "id": [f"i{number:02d}" for number in of_item],
            "image": pl.int_range(len(of_item), dtype=pl.Int32, eager=True),
            "sha256": [f"{number:02d}" for number in content],
        }
    )
    keys = keys.sort("id", "sha256")
    return Items(keys, families(40, 8, seed=5)[keys["sha256"].cast(pl.Int64).to_numpy()])


@pytest.mark.parametrize("spec", [JoinSpec(k=1), JoinSpec(k=3), JoinSpec(0.5)])
def test_pairs_of_a_sample_are_those_of_the_catalog(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: JoinSpec
) -> None:
    monkeypatch.setattr(sample, "_MEASURED_ROWS", 10)
    monkeypatch.setattr(sample, "_CHOOSING_ROWS", 10)
    monkeypatch.setattr(sample, "_MIN_PAIRS", 1)
    items = _items()
    spec = JoinSpec(spec.threshold, spec.k, exclude_self=True)
    expected = item_pairs(neighbor_lists(items, items, spec), items, items, spec.k).select(_PAIR)
    result = MaterializedResult.for_recipe(Store.open(tmp_path).table("items/graph"), None, {})

    meter, _ = recall_meter(PairsOf(items, items, spec), result, "sample", None)
    chosen = pairs_to_choose_by(PairsOf(items, items, spec))

    ids = items.keys["id"]
    by = pl.DataFrame({"left_id": ids.gather(chosen.i), "right_id": ids.gather(chosen.j)})
    for found in (meter.exact.select(_PAIR), by):
        sampled = found["left_id"].unique()
        assert 1 < len(sampled) < items.count
        of_sampled = expected.filter(pl.col("left_id").is_in(sampled.implode()))
        assert found.sort(_PAIR).equals(of_sampled.sort(_PAIR))
