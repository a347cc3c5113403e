from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from imgsim_assets.images.plot import bar_chart, heat_map, histogram, trade_off

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = """</text><script>alert("1")</script> & 'x' < y ]]> é"""


def test_histogram_bar_height_is_proportional_to_count() -> None:
    drawn = parsed(histogram([1, 4, 0, 2], [0.0, 0.25, 0.5, 0.75, 1.0], title="t"))

    heights = [float(bar.attrib["height"]) for bar in rectangles(drawn)]
    tallest = max(heights)
    assert heights == pytest.approx([tallest / 4, tallest, 0, tallest / 2], abs=0.2)


def test_histogram_bars_share_a_baseline() -> None:
    drawn = parsed(histogram([1, 4, 2], [0.0, 1.0, 2.0, 4.0], title="t"))

    bars_drawn = rectangles(drawn)
    lefts = [float(bar.attrib["x"]) for bar in bars_drawn]
    widths = [float(bar.attrib["width"]) for bar in bars_drawn]
    feet = {float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in bars_drawn}
    assert lefts == sorted(lefts)
    assert all(a + w <= b for a, w, b in zip(lefts, widths, lefts[1:], strict=False))
    assert widths[2] == pytest.approx(2 * widths[0], abs=2)
    assert max(feet) - min(feet) < 0.2


def test_histogram_has_title_range_and_largest_count() -> None:
    drawn = parsed(histogram([3, 12_345], [0.5, 0.75, 1.0], title="similarity"))

    assert {"similarity", "0.5", "0.75", "1", "12,345", "0"} <= set(words(drawn))


def test_mark_near_right_end_has_label_on_left() -> None:
    drawn = parsed(histogram([1], [0.0, 1.0], title="t", mark=0.95, mark_label="threshold"))

    (label,) = [each for each in drawn.iter(f"{SVG}text") if each.text == "threshold"]
    assert label.attrib["text-anchor"] == "end"


def test_bar_chart_scales_to_full() -> None:
    half, whole = (
        rectangles(parsed(bar_chart([("a", 0.5)], title="t", full=full)))[0].attrib["width"]
        for full in (1.0, None)
    )

    assert float(whole) == pytest.approx(2 * float(half))


def test_trade_off_draws_rates_and_log_counts() -> None:
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
def test_trade_off_draws_small_counts_at_the_bottom(price: list[float]) -> None:
    drawn = parsed(
        trade_off([0, 1], [1, 0], price, title="", rate_label="", count_label="", mark=0)
    )

    heights = [
        float(point.split(",")[1])
        for point in drawn.findall(f"{SVG}polyline")[0].attrib["points"].split()
    ]
    assert heights[1] == 150.0


@pytest.mark.parametrize(("mark", "shown"), [(0.8, True), (0.5, True), (1.0, True), (1.2, False)])
def test_mark_is_drawn_at_its_value(mark: float, shown: bool) -> None:
    drawn = parsed(
        histogram([1, 1], [0.5, 0.75, 1.0], title="t", mark=mark, mark_label="threshold")
    )

    assert ("threshold" in words(drawn)) == shown
    dashed = [path for path in drawn.iter(f"{SVG}path") if "stroke-dasharray" in path.attrib]
    assert len(dashed) == int(shown)


def test_mark_in_middle_of_range_is_in_middle_of_axis() -> None:
    drawn = parsed(histogram([1, 1], [0.0, 1.0, 2.0], title="t", mark=1.0))

    (dashed,) = [path for path in drawn.iter(f"{SVG}path") if "stroke-dasharray" in path.attrib]
    second = rectangles(drawn)[1]
    assert dashed.attrib["d"].startswith(f"M{second.attrib['x']} ")


def test_mismatched_counts_and_edges_raise() -> None:
    with pytest.raises(ValueError, match="2 counts need 3 edges, not 2"):
        histogram([1, 2], [0.0, 1.0], title="t")


@pytest.mark.parametrize(
    ("counts", "edges"),
    [([], [0.0]), ([0, 0], [0.0, 0.5, 1.0]), ([5], [1.0, 1.0]), ([10**15], [-1.0, 1.0])],
    ids=["no bins", "no values", "no range", "huge"],
)
def test_histogram_of_few_values_is_valid_svg(counts: list[int], edges: list[float]) -> None:
    drawn = parsed(histogram(counts, edges, title="t", mark=edges[0]))

    assert len(rectangles(drawn)) == len(counts)
    inside(drawn)


def test_bar_length_is_proportional_to_value() -> None:
    drawn = parsed(bar_chart([("ok", 200), ("timeout", 50), ("gone", 0)], title="items"))

    widths = [float(bar.attrib["width"]) for bar in rectangles(drawn)]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.2)
    assert 0 < widths[2] <= 1
    assert words(drawn) == ["items", "ok", "200", "timeout", "50", "gone", "0"]


@pytest.mark.parametrize("values", [[], [("a", 0)], [("a", 0.001)], [("a", 1e12), ("b", 1)]])
def test_bar_chart_of_few_values_is_valid_svg(values: list[tuple[str, float]]) -> None:
    drawn = parsed(bar_chart(values, title="t"))

    assert len(rectangles(drawn)) == len(values)
    inside(drawn)


def test_bar_chart_keeps_order_and_grows_with_bars() -> None:
    few, many = (
        parsed(bar_chart([(f"status {n}", n + 1) for n in range(count)], title="t"))
        for count in (2, 9)
    )

    assert float(many.attrib["height"]) > float(few.attrib["height"])
    assert [word for word in words(many) if word.startswith("status")] == [
        f"status {n}" for n in range(9)
    ]
    inside(many)


def test_labels_are_escaped() -> None:
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
    """The bars: every rectangle but the background."""
    return list(drawn.iter(f"{SVG}rect"))[1:]


def words(drawn: ET.Element) -> list[str]:
    return [element.text or "" for element in drawn.iter(f"{SVG}text")]


def inside(drawn: ET.Element) -> None:
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    for bar in rectangles(drawn):
        x, y, w, h = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height


def test_heat_map_shows_values_and_frames_those_from_mark() -> None:
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
