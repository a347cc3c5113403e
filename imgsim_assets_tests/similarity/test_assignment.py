from __future__ import annotations

from itertools import permutations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.assignment import one_to_one

EDGES = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.one_of(st.sampled_from([0.5, 0.9, 1.0, 0.0, -0.3]), st.floats(-1, 1)),
)


@settings(max_examples=150, deadline=None)
@given(edges=EDGES)
def test_no_matching_has_a_greater_total(edges: dict[tuple[int, int], float]) -> None:
    found = one_to_one(_pairs(edges))

    assert found["left_id"].n_unique() == found["right_id"].n_unique() == found.height
    assert set(found.select("left_id", "right_id").rows()) <= {(f"l{i}", f"r{j}") for i, j in edges}
    best = max(
        sum(max(0.0, edges.get((i, j), 0.0)) for i, j in enumerate(order))
        for order in permutations(range(5))
    )
    assert abs(float(found["similarity"].sum()) - best) < 1e-9


@settings(max_examples=60, deadline=None)
@given(edges=EDGES, seed=st.integers(0, 1000))
def test_the_order_of_the_pairs_does_not_matter(
    edges: dict[tuple[int, int], float], seed: int
) -> None:
    pairs = _pairs(edges)

    shuffled = pairs.sample(fraction=1, shuffle=True, seed=seed)

    assert one_to_one(shuffled).equals(one_to_one(pairs))


def test_the_greatest_total_may_take_a_pair_that_is_nobodys_best() -> None:
    edges = {(0, 0): 0.99, (0, 1): 0.95, (1, 0): 0.97, (1, 1): 0.85}

    found = one_to_one(_pairs(edges))

    assert found.rows() == [("l0", "r1", 0.95), ("l1", "r0", 0.97)]


def test_a_thousand_copies_are_matched_one_by_one() -> None:
    edges = {(i, j): 1.0 for i in range(300) for j in range(300)}

    assert one_to_one(_pairs(edges)).height == 300


def test_no_pairs_give_no_matching() -> None:
    assert one_to_one(_pairs({})).equals(_pairs({}))


def _pairs(edges: dict[tuple[int, int], float]) -> pl.DataFrame:
    rows = [(f"l{i}", f"r{j}", similarity) for (i, j), similarity in sorted(edges.items())]
    return pl.DataFrame(
        rows,
        schema={"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64},
        orient="row",
    )
