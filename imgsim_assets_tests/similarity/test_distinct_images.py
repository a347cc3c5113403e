from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.distinct_images import distinct_images
from imgsim_assets.similarity.items import Items
from imgsim_assets.storage import row_blocks, stored_rows

CATALOG = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y"])), max_size=30)


@settings(max_examples=30, deadline=None)
@given(
    catalogs=st.lists(CATALOG, min_size=1, max_size=3),
    within=st.booleans(),
    size=st.sampled_from([2, 5, 1000]),
    in_memory=st.sampled_from([0, 1 << 20]),
)
def test_of_the_rows_of_an_image_the_first_one_counts(
    catalogs: list[list[tuple[str, str]]], within: bool, size: int, in_memory: int
) -> None:
    sides, first = [], dict[str, float]()
    number = 0.0
    for rows in catalogs:
        vectors = number + np.arange(len(rows), dtype=np.float32)
        for (sha256, value), vector in zip(rows, vectors.tolist(), strict=True):
            first.setdefault(f"{sha256}\0{value}" if within else sha256, vector)
        keys = pl.DataFrame(
            {
                "id": [f"{n:02}" for n in range(len(rows))],
                "image": [0] * len(rows),
                "sha256": [row[0] for row in rows],
                "value": [row[1] for row in rows],
            },
            schema={"id": pl.String, "image": pl.Int32, "sha256": pl.String, "value": pl.String},
        )
        keys = keys if within else keys.drop("value")
        sides.append(Items(keys, vectors[:, None]))
        number += len(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK_ROWS", size)
        patch.setattr(stored_rows, "rows_in_memory", lambda: in_memory)
        distinct = distinct_images(sides)
        found = zip(distinct.keys["id"], distinct.vectors.ravel().tolist(), strict=True)

        assert list(found) == sorted(first.items())
        assert distinct.keys["sha256"].to_list() == [key[0] for key in sorted(first)]
