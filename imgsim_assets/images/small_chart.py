"""Charts so small that they fit into a text of 1,000 characters, encoded as base64.

Dagster shows longer Markdown only after a click.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Bytes of a chart; base64 adds a third.
MAX_BYTES = 700
MAX_BINS = 28
MAX_BARS = 5
_WIDTH = 360
_BASE = 96
_TOP = 18
_MAX_LABEL = 18
_MAX_TITLE = 48


def small_histogram(
    counts: Sequence[int], low: float, high: float, *, title: str, cutoff: float | None = None
) -> str:
    """An SVG histogram, gray below a cutoff.

    Args:
        counts: of at most MAX_BINS bins of equal width.
        low: where the first bin starts.
        high: where the last bin ends.
        title: of the chart.
        cutoff: a value on the axis.
    """
    bins = list(counts)[:MAX_BINS]
    width = _WIDTH // max(len(bins), 1)
    tallest = max(max(bins, default=0), 1)
    heights = [_BASE - round(count / tallest * (_BASE - _TOP)) for count in bins]
    span = (high - low) or 1.0
    below = 0 if cutoff is None else round((cutoff - low) / span * len(bins))
    below = min(max(below, 0), len(bins))
    parts = [
        _bars(heights[:below], 0, width, "#aaa"),
        _bars(heights[below:], below * width, width, "#54d"),
        _text(0, 12, f"{title[:_MAX_TITLE]}, at most {tallest:,}"),
        _text(0, 112, f"{low:.3g}"),
        _text(len(bins) * width, 112, f"{high:.3g}", "end"),
    ]
    if cutoff is not None and 0 < below < len(bins):
        parts.append(_text(below * width, 112, f"{cutoff:.4g}", "middle"))
    return _svg("".join(parts), 118)


def small_bar_chart(values: Sequence[tuple[str, float]]) -> str:
    """An SVG chart of at most MAX_BARS horizontal bars, in the order of the values."""
    shown = list(values)[:MAX_BARS]
    largest = max((value for _, value in shown), default=0) or 1
    labels, figures, bars = "", "", ""
    for row, (label, value) in enumerate(shown):
        length = max(round(value / largest * 150), 1)
        bars += f"M120 {18 * row + 3}h{length}v12h-{length}z"
        labels += _text(116, 18 * row + 13, label[:_MAX_LABEL])
        figures += _text(124 + length, 18 * row + 13, f"{value:,.10g}")
    body = f"<path d='{bars}' fill='#54d'/><g text-anchor='end'>{labels}</g>{figures}"
    return _svg(body, 18 * len(shown) + 4)


def _bars(tops: Sequence[int], left: int, width: int, color: str) -> str:
    if not tops:
        return ""
    steps = "".join(f"V{top}h{width}" for top in tops)
    return f"<path d='M{left} {_BASE}{steps}V{_BASE}z' fill='{color}'/>"


def _text(x: int, y: int, text: str, anchor: str = "") -> str:
    position = f" text-anchor='{anchor}'" if anchor else ""
    return f"<text x='{x}' y='{y}'{position}>{escape(text)}</text>"


def _svg(body: str, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}' "
        f"font-size='11' font-family='Arial'>{body}</svg>"
    )
