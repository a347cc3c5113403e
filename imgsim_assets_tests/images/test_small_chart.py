from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.images.small_chart import (
    MAX_BARS,
    MAX_BINS,
    MAX_BYTES,
    small_bar_chart,
    small_histogram,
)

SVG = "{http://www.w3.org/2000/svg}"


def _words(drawing: str) -> list[str | None]:
    return [each.text for each in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=MAX_BINS),
    st.none() | st.floats(-1, 1),
)
def test_histogram_is_valid_and_small(counts: list[int], cutoff: float | None) -> None:
    title = "123,456,789 pairs, 123,456 below"

    drawing = small_histogram(counts, -1.0, 1.0, title=title, cutoff=cutoff)

    assert len(drawing.encode()) <= MAX_BYTES
    assert ElementTree.fromstring(drawing).tag == f"{SVG}svg"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ok", "http_404", "connection_error", "robots_disallowed"]),
            st.integers(0, 10**7),
        ),
        max_size=20,
    )
)
def test_bar_chart_is_valid_and_small(values: list[tuple[str, float]]) -> None:
    drawing = small_bar_chart(values)

    assert len(drawing.encode()) <= MAX_BYTES
    assert len(_words(drawing)) == 2 * min(len(values), MAX_BARS)


def test_bins_below_the_cutoff_are_gray() -> None:
    drawn = ElementTree.fromstring(small_histogram([1, 2, 4, 4], 0.8, 1.0, title="t", cutoff=0.9))

    below, above = drawn.iter(f"{SVG}path")
    assert (below.attrib["fill"], above.attrib["fill"]) == ("#aaa", "#54d")
    assert below.attrib["d"] == "M0 96V76h90V57h90V96z"
    assert above.attrib["d"] == "M180 96V18h90V18h90V96z"


@pytest.mark.parametrize("cutoff", [0.8, 1.0, None])
def test_cutoff_at_an_end_is_named_by_the_axis(cutoff: float | None) -> None:
    words = _words(small_histogram([1, 1], 0.8, 1.0, title="t", cutoff=cutoff))

    assert words == ["t, at most 1", "0.8", "1"]
