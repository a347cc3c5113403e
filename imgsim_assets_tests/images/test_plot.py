from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from imgsim_assets.images.plot import bar_chart, heat_map, histogram, trade_off

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = """</text><script>alert("1")</script> & 'x' < y ]]> é"""


def test_a_histogram_has_a_bar_a_bin_as_high_as_its_count() -> None:
    drawn = parsed(histogram([1, 4, 0, 2], [0.0, 0.25, 0.5, 0.75, 1.0], title="t"))

    heights = [float(bar.attrib["height"]) for bar in rectangles(drawn)]
    tallest = max(heights)
    assert heights == pytest.approx([tallest / 4, tallest, 0, tallest / 2], abs=0.2)


def test_bars_of_a_histogram_stand_side_by_side_on_one_line() -> None:
    drawn = parsed(histogram([1, 4, 2], [0.0, 1.0, 2.0, 4.0], title="t"))

    bars_drawn = rectangles(drawn)
    lefts = [float(bar.attrib["x"]) for bar in bars_drawn]
    widths = [float(bar.attrib["width"]) for bar in bars_drawn]
    feet = {float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in bars_drawn}
    assert lefts == sorted(lefts)
    assert all(a + w <= b for a, w, b in zip(lefts, widths, lefts[1:], strict=False))
    assert widths[2] == pytest.approx(2 * widths[0], abs=2)
    assert max(feet) - min(feet) < 0.2


def test_a_histogram_is_labeled_with_title_range_and_largest_count() -> None:
    drawn = parsed(histogram([3, 12_345], [0.5, 0.75, 1.0], title="similarity"))

    assert {"similarity", "0.5", "0.75", "1", "12,345", "0"} <= set(words(drawn))


def test_a_mark_near_the_right_end_has_its_label_on_its_left() -> None:
    drawn = parsed(histogram([1], [0.0, 1.0], title="t", mark=0.95, mark_label="threshold"))

    (label,) = [each for each in drawn.iter(f"{SVG}text") if each.text == "threshold"]
    assert label.attrib["text-anchor"] == "end"


def test_bars_may_be_drawn_against_a_full_one() -> None:
    half, whole = (
        rectangles(parsed(bar_chart([("a", 0.5)], title="t", full=full)))[0].attrib["width"]
        for full in (1.0, None)
    )

    assert float(whole) == pytest.approx(2 * float(half))


def test_a_trade_off_draws_shares_and_magnitudes_over_one_axis() -> None:
    drawn = parsed(
        trade_off(
            [0.5, 0.75, 1.0],
            [1.0, 0.5, 0.0],
            [1e6, 1e3, 0.0],
            title="t",
            rate_label="found",
            count_label="false",
            mark=0.75,
        )
    )

    lines = drawn.findall(f"{SVG}polyline")
    price, gain = (
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in lines
    )
    # Half of the copies, and a thousand of a million pairs, are both half-way up.
    assert [point == pytest.approx(other) for point, other in zip(gain, price, strict=True)] == [
        True
    ] * 3
    assert gain[0][1] < gain[1][1] < gain[2][1]
    assert gain[1][0] == pytest.approx((gain[0][0] + gain[2][0]) / 2)
    assert {"found", "false", "1", "100", "10k", "1M", "0.5", "t"} <= set(words(drawn))


@pytest.mark.parametrize("price", [[0.0, 0.0], [5.0, 0.2]])
def test_a_trade_off_of_hardly_any_price_is_drawn_at_the_foot(price: list[float]) -> None:
    drawn = parsed(
        trade_off([0, 1], [1, 0], price, title="", rate_label="", count_label="", mark=0)
    )

    heights = [
        float(point.split(",")[1])
        for point in drawn.findall(f"{SVG}polyline")[0].attrib["points"].split()
    ]
    assert heights[1] == 150.0


@pytest.mark.parametrize(("mark", "shown"), [(0.8, True), (0.5, True), (1.0, True), (1.2, False)])
def test_a_marked_value_is_drawn_where_it_lies(mark: float, shown: bool) -> None:
    drawn = parsed(
        histogram([1, 1], [0.5, 0.75, 1.0], title="t", mark=mark, mark_label="threshold")
    )

    assert ("threshold" in words(drawn)) == shown
    dashed = [path for path in drawn.iter(f"{SVG}path") if "stroke-dasharray" in path.attrib]
    assert len(dashed) == int(shown)


def test_a_mark_in_the_middle_of_the_range_is_in_the_middle_of_the_axis() -> None:
    drawn = parsed(histogram([1, 1], [0.0, 1.0, 2.0], title="t", mark=1.0))

    (dashed,) = [path for path in drawn.iter(f"{SVG}path") if "stroke-dasharray" in path.attrib]
    second = rectangles(drawn)[1]
    assert dashed.attrib["d"].startswith(f"M{second.attrib['x']} ")


def test_counts_and_edges_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 counts need 3 edges, not 2"):
        histogram([1, 2], [0.0, 1.0], title="t")


@pytest.mark.parametrize(
    ("counts", "edges"),
    [([], [0.0]), ([0, 0], [0.0, 0.5, 1.0]), ([5], [1.0, 1.0]), ([10**15], [-1.0, 1.0])],
    ids=["no bins", "no values", "no range", "huge"],
)
def test_a_histogram_of_little_is_still_an_image(counts: list[int], edges: list[float]) -> None:
    drawn = parsed(histogram(counts, edges, title="t", mark=edges[0]))

    assert len(rectangles(drawn)) == len(counts)
    inside(drawn)


def test_bars_are_as_long_as_their_values() -> None:
    drawn = parsed(bar_chart([("ok", 200), ("timeout", 50), ("gone", 0)], title="items"))

    widths = [float(bar.attrib["width"]) for bar in rectangles(drawn)]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.2)
    assert 0 < widths[2] <= 1
    assert words(drawn) == ["items", "ok", "200", "timeout", "50", "gone", "0"]


@pytest.mark.parametrize("values", [[], [("a", 0)], [("a", 0.001)], [("a", 1e12), ("b", 1)]])
def test_bars_of_little_are_still_an_image(values: list[tuple[str, float]]) -> None:
    drawn = parsed(bar_chart(values, title="t"))

    assert len(rectangles(drawn)) == len(values)
    inside(drawn)


def test_bars_keep_their_order_and_grow_the_image() -> None:
    few, many = (
        parsed(bar_chart([(f"status {n}", n + 1) for n in range(count)], title="t"))
        for count in (2, 9)
    )

    assert float(many.attrib["height"]) > float(few.attrib["height"])
    assert [word for word in words(many) if word.startswith("status")] == [
        f"status {n}" for n in range(9)
    ]
    inside(many)


def test_labels_are_text_whatever_they_hold() -> None:
    for drawn in (
        parsed(bar_chart([(HOSTILE, 1)], title=HOSTILE)),
        parsed(histogram([1], [0.0, 1.0], title=HOSTILE, mark=0.5, mark_label=HOSTILE)),
    ):
        assert words(drawn).count(HOSTILE) == 2
        assert not list(drawn.iter(f"{SVG}script"))


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def rectangles(drawn: ET.Element) -> list[ET.Element]:
    """The bars: every rectangle but the ground."""
    return list(drawn.iter(f"{SVG}rect"))[1:]


def words(drawn: ET.Element) -> list[str]:
    return [element.text or "" for element in drawn.iter(f"{SVG}text")]


def inside(drawn: ET.Element) -> None:
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    for bar in rectangles(drawn):
        x, y, w, h = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height


def test_a_heat_map_shows_every_value_and_frames_those_from_the_mark_on() -> None:
    drawing = heat_map(
        [[0.2, 0.9], [-0.1, 1.0]],
        ["a<b", "a long name of a row"],
        ["x", "y"],
        title="of every pair",
        mark=0.845,
    )

    root = ET.fromstring(drawing)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    framed = [element for element in root.iter(f"{SVG}rect") if element.get("stroke")]
    assert texts == [
        "of every pair",
        "x",
        "y",
        "a<b",
        "0.20",
        "0.90",
        "a long name of …",
        "-0.10",
        "1.00",
    ]
    assert len(framed) == 2
