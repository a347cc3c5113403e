from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.clustering import Bridge, find_bridges

LINKS = st.sets(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda link: link[0] < link[1])
)


@settings(max_examples=200, deadline=None)
@given(links=LINKS, counts=st.lists(st.integers(1, 3), min_size=9, max_size=9))
def test_bridges_are_links_whose_removal_adds_components(
    links: set[tuple[int, int]], counts: list[int]
) -> None:
    expected = [
        Bridge(*link, _smaller_part(links, link, counts))
        for link in sorted(links)
        if len(set(_labels(links - {link}))) > len(set(_labels(links)))
    ]

    assert find_bridges(sorted(links), np.array(counts)) == expected


def test_every_link_of_a_long_chain_is_a_bridge() -> None:
    chain = [(n, n + 1) for n in range(20_000)]

    bridges = find_bridges(chain, np.ones(20_001, dtype=np.int64))

    assert [(bridge.a, bridge.b) for bridge in bridges] == chain
    assert max(bridge.smaller_part for bridge in bridges) == 10_000


def _smaller_part(links: set[tuple[int, int]], link: tuple[int, int], counts: list[int]) -> int:
    """The items of the smaller of the two parts that a link joins."""
    labels = _labels(links - {link})
    return min(
        sum(count for label, count in zip(labels, counts, strict=True) if label == labels[end])
        for end in link
    )


def _labels(links: set[tuple[int, int]]) -> list[int]:
    label = list(range(9))
    for a, b in links:
        old, new = label[a], label[b]
        label = [new if value == old else value for value in label]
    return label
