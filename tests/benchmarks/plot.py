"""A small figure of curves as SVG, both axes in powers of ten: panels side by side, one key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 62  # room for numbers, title, axis and key
COLOURS = ("#b3261e", "#e8833a", "#1d5fa8", "#2a9d6f")
GREY, INK = "#d8d8d8", "#333333"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points (x, y), all above 0, in order."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over one axis."""

    title: str
    curves: Sequence[Curve]


def plot(panels: Sequence[Panel], *, across: str) -> str:
    """The figure; curves of one name have one colour, that of their place among the curves."""
    width = WIDTH * len(panels)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        drawn.append(f'<g transform="translate({index * WIDTH} 0)">')
        drawn += [*_panel(panel, across), "</g>"]
    drawn += [*_key(panels[0].curves, width), "</svg>", ""]
    return "\n".join(drawn)


def _panel(panel: Panel, across: str) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (math.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - up

    drawn = [_text(panel.title, LEFT, TOP - 14, "start")]
    drawn.append(_text(across, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 32, "middle"))
    for value in _ticks(x_low, x_high):
        x, floor = at(value, 10.0**y_low)
        drawn += [_line(x, floor, x, TOP), _text(f"{value:,.0f}", x, floor + 15, "middle")]
    for value in _ticks(y_low, y_high):
        wall, y = at(10.0**x_low, value)
        drawn += [_line(wall, y, WIDTH - RIGHT, y), _text(f"{value:g}", wall - 6, y + 4, "end")]
    for curve, colour in zip(panel.curves, cycle(COLOURS), strict=False):
        places = [at(*point) for point in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"'
            f"{_dashes(curve)}/>"
        )
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return drawn


def _key(curves: Sequence[Curve], width: int) -> list[str]:
    drawn = []
    each = (width - LEFT) / len(curves)
    for index, (curve, colour) in enumerate(zip(curves, cycle(COLOURS), strict=False)):
        x, y = LEFT + index * each, HEIGHT - 12
        drawn.append(_line(x, y, x + 24, y, f'stroke="{colour}" stroke-width="2"{_dashes(curve)}'))
        drawn.append(_text(curve.name, x + 30, y + 4, "start"))
    return drawn


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms that hold all values, with a little room."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.06 * (high - low), 0.05)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """1, 3, 10, 30 and so on, within a range of logarithms."""
    candidates = [
        digit * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for digit in (1, 3)
    ]
    return [value for value in candidates if low <= math.log10(value) <= high]


def _dashes(curve: Curve) -> str:
    return ' stroke-dasharray="6 4"' if curve.dashed else ""


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str = f'stroke="{GREY}"') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}/>'


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
