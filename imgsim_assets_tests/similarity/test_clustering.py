from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.clustering import find_bridges

LINKS = st.sets(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda link: link[0] < link[1])
)


@settings(max_examples=200, deadline=None)
@given(links=LINKS)
def test_bridges_are_links_whose_removal_adds_components(
    links: set[tuple[int, int]],
) -> None:
    expected = [link for link in sorted(links) if _parts(links - {link}) > _parts(links)]

    assert find_bridges(sorted(links)) == expected


def test_every_link_of_a_long_chain_is_a_bridge() -> None:
    chain = [(n, n + 1) for n in range(20_000)]

    assert find_bridges(chain) == chain


def _parts(links: set[tuple[int, int]]) -> int:
    label = list(range(9))
    for a, b in links:
        old, new = label[a], label[b]
        label = [new if value == old else value for value in label]
    return len(set(label))
