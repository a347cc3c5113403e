"""Small charts as SVG: sharp at any size, and small enough for metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH = 480
_HEIGHT = 180
_LEFT = 46
_BOTTOM = 30
_TOP = 22
_INK = "#444"
_BAR = "#4f43dd"
_MARK = "#d2453d"
_SECOND = "#b7791f"
_FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)


def histogram(
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    mark: float | None = None,
    mark_label: str = "",
) -> str:
    """An SVG histogram.

    Args:
        counts: of n bins.
        edges: of the bins, n + 1 ascending values.
        title: of the chart.
        mark: a value on the axis to mark.
        mark_label: names the mark.

    Raises:
        ValueError: when the numbers of counts and edges do not match.
    """
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}")
    low, high = edges[0], edges[-1]
    span = (high - low) or 1.0
    tallest = max(max(counts, default=0), 1)

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (_WIDTH - _LEFT - 12)

    def y(count: float) -> float:
        return _HEIGHT - _BOTTOM - count / tallest * (_HEIGHT - _BOTTOM - _TOP)

    parts = [_text(_LEFT, 14, title, anchor="start")]
    for position, count in enumerate(counts):
        left, right = x(edges[position]), x(edges[position + 1])
        top = y(count)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{_HEIGHT - _BOTTOM - top:.1f}" fill="{_BAR}"/>'
        )
    base = _HEIGHT - _BOTTOM
    parts.append(f'<path d="M{_LEFT} {base}H{_WIDTH - 12}" stroke="{_INK}"/>')
    parts += [_text(x(at), base + 16, f"{at:.3g}") for at in (low, (low + high) / 2, high)]
    parts += [
        _text(_LEFT - 6, y(tallest) + 4, f"{tallest:,}", anchor="end"),
        _text(_LEFT - 6, base, "0", anchor="end"),
    ]
    if mark is not None and low <= mark <= high:
        parts.append(
            f'<path d="M{x(mark):.1f} {_TOP}V{base}" stroke="{_MARK}" stroke-dasharray="4 3"/>'
        )
        # Right of the mark where there is room.
        offset, anchor = (4, "start") if x(mark) < _WIDTH * 0.75 else (-4, "end")
        parts.append(_text(x(mark) + offset, _TOP + 8, mark_label, anchor=anchor, fill=_MARK))
    return _svg(parts, _HEIGHT)


def trade_off(
    x_values: Sequence[float],
    rates: Sequence[float],
    counts: Sequence[float],
    *,
    title: str,
    rate_label: str,
    count_label: str,
    mark: float,
) -> str:
    """An SVG chart of two curves over one x axis: rates, and counts on a logarithmic scale.

    Args:
        x_values: ascending.
        rates: from 0 to 1, one for each x value.
        counts: one for each x value; those below one are drawn as one.
        title: of the chart.
        rate_label: names the curve of rates.
        count_label: names the curve of counts.
        mark: an x value to mark.
    """
    right = 44
    highest = max(1, math.ceil(math.log10(max(*counts, 10.0))))
    low, span = x_values[0], (x_values[-1] - x_values[0]) or 1.0
    base = _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (_WIDTH - _LEFT - right)

    def y(rate: float) -> float:
        return base - rate * (base - _TOP - 14)

    def curve(values: Sequence[float], color: str) -> str:
        pairs = zip(x_values, values, strict=True)
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in pairs)
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'

    magnitudes = [math.log10(max(value, 1.0)) / highest for value in counts]
    parts = [
        _text(_LEFT, 14, title, anchor="start"),
        _text(_LEFT, 30, rate_label, anchor="start", fill=_BAR),
        _text(_WIDTH - right, 30, count_label, anchor="end", fill=_SECOND),
        f'<path d="M{_LEFT} {base}H{_WIDTH - right}" stroke="{_INK}"/>',
        *(_text(_LEFT - 6, y(rate) + 4, f"{rate:g}", anchor="end") for rate in (0, 0.5, 1)),
        *(
            _text(_WIDTH - right + 6, y(power / highest) + 4, _magnitude(power), anchor="start")
            for power in range(0, highest + 1, 2)
        ),
        *(_text(x(low + part * span), base + 16, f"{low + part * span:.3g}") for part in _FIFTHS),
        f'<path d="M{x(mark):.1f} {_TOP + 14}V{base}" stroke="{_MARK}" stroke-dasharray="4 3"/>',
        curve(magnitudes, _SECOND),
        curve(rates, _BAR),
    ]
    return _svg(parts, _HEIGHT)


def _magnitude(power: int) -> str:
    """A power of ten abbreviated: 1, 100, 10k, 1M."""
    return f"{10 ** (power % 3)}{('', 'k', 'M', 'G')[power // 3]}"


def bar_chart(values: Sequence[tuple[str, float]], *, title: str, full: float | None = None) -> str:
    """An SVG chart of horizontal bars.

    Args:
        values: labels and values, in the order of the bars.
        title: of the chart.
        full: value of a bar of full length; by default the largest value.
    """
    largest = full or max((value for _, value in values), default=0) or 1.0
    height = 28 + 20 * len(values)
    parts = [_text(8, 14, title, anchor="start")]
    for position, (label, value) in enumerate(values):
        top = 24 + 20 * position
        width = value / largest * (_WIDTH - 220)
        parts += [
            _text(130, top + 12, label, anchor="end"),
            f'<rect x="136" y="{top}" width="{max(width, 1):.1f}" height="15" fill="{_BAR}"/>',
            _text(142 + width, top + 12, f"{value:,.10g}", anchor="start"),
        ]
    return _svg(parts, height)


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    mark: float,
) -> str:
    """An SVG table of values from 0 to 1, darker for larger ones; frames those from `mark` on."""
    cell = 36
    left, top = 130, 34
    parts = [_text(8, 14, title, anchor="start")]
    for column, name in enumerate(columns):
        parts.append(_text(left + (column + 0.5) * cell, top - 4, _short(name, 5)))
    for row, name in enumerate(rows):
        y = top + row * cell
        parts.append(_text(left - 6, y + cell / 2 + 4, _short(name, 16), anchor="end"))
        for column in range(len(columns)):
            value = values[row][column]
            x = left + column * cell
            depth = min(max(value, 0.0), 1.0)
            frame = f' stroke="{_MARK}" stroke-width="2"' if value >= mark else ""
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" '
                f'fill="{_BAR}" fill-opacity="{depth:.3f}"{frame}/>'
            )
            ink = "#fff" if depth > 0.6 else _INK
            parts.append(_text(x + cell / 2, y + cell / 2 + 4, f"{value:.2f}", fill=ink))
    return _svg(parts, top + len(rows) * cell + 8, max(_WIDTH, left + len(columns) * cell + 12))


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
    )


def _svg(parts: Sequence[str], height: int, width: int = _WIDTH) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )
