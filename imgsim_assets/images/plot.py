"""Small charts as SVG: sharp at any size, and a few hundred bytes of metadata."""

from __future__ import annotations

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


def histogram(
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    mark: float | None = None,
    mark_label: str = "",
) -> str:
    """An SVG histogram of `len(edges) - 1` bins, with an optional marked value on its axis."""
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
        parts.append(_text(x(mark) + 4, _TOP + 8, mark_label, anchor="start", fill=_MARK))
    return _svg(parts, _HEIGHT)


def bars(values: Sequence[tuple[str, float]], *, title: str) -> str:
    """An SVG chart of labelled horizontal bars, in the given order."""
    largest = max((value for _, value in values), default=0) or 1.0
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
    """An SVG table of values from 0 to 1, darker the greater; those from `mark` on are framed."""
    side = 36
    left, top = 130, 34
    parts = [_text(8, 14, title, anchor="start")]
    for column, name in enumerate(columns):
        parts.append(_text(left + (column + 0.5) * side, top - 4, _short(name, 5)))
    for row, name in enumerate(rows):
        y = top + row * side
        parts.append(_text(left - 6, y + side / 2 + 4, _short(name, 16), anchor="end"))
        for column in range(len(columns)):
            value = values[row][column]
            x = left + column * side
            depth = min(max(value, 0.0), 1.0)
            frame = f' stroke="{_MARK}" stroke-width="2"' if value >= mark else ""
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{side - 2}" height="{side - 2}" '
                f'fill="{_BAR}" fill-opacity="{depth:.3f}"{frame}/>'
            )
            ink = "#fff" if depth > 0.6 else _INK
            parts.append(_text(x + side / 2, y + side / 2 + 4, f"{value:.2f}", fill=ink))
    return _svg(parts, top + len(rows) * side + 8, max(_WIDTH, left + len(columns) * side + 12))


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
