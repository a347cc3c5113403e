"""The others of items are read from scratch files as they were written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import other_items
from imgsim_assets.similarity.budget import thresholds_within
from imgsim_assets.similarity.other_items import DEPTH, NearestOthers, RankedOthers


def _written(count: int, seed: int, parts: int) -> tuple[NearestOthers, RankedOthers]:
    """Others of items of some clusters, written in parts of any items, and what was written."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, count, count)
    similarity = -np.sort(-rng.uniform(-1, 1, (count, DEPTH)), axis=1)
    other = rng.choice(cluster, (count, DEPTH))
    few = np.arange(DEPTH) >= rng.integers(0, DEPTH + 1, count)[:, None]
    similarity[few], other[few] = -np.inf, -1
    nearest = NearestOthers(cluster)
    for items in np.array_split(rng.permutation(count), parts):
        nearest.write(items, RankedOthers(similarity[items], other[items]))
    return nearest, RankedOthers(similarity, other)


@given(count=st.integers(1, 40), seed=st.integers(0, 99), rows=st.integers(1, 9))
@settings(max_examples=12, deadline=None)
def test_others_and_thresholds_do_not_depend_on_what_is_read_at_once(
    count: int, seed: int, rows: int
) -> None:
    nearest, written = _written(count, seed, parts=3)
    whole = thresholds_within(nearest, 0.3, [count, 1000])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_items, "_BLOCK_ITEMS", rows)
        blocks = [others for _, others in nearest.blocks()]
        assert thresholds_within(nearest, 0.3, [count, 1000]) == whole

    for found, expected in zip(nearest.all(), written, strict=True):
        np.testing.assert_array_equal(found, expected)
    for number, expected in enumerate(written):
        np.testing.assert_array_equal(np.concatenate([each[number] for each in blocks]), expected)
    np.testing.assert_array_equal(nearest.best, written.similarity[:, 0])
