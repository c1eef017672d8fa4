"""Small charts as inline SVG: axes with units, lines with bands, stacked areas.

Pure functions of numbers; gaps (not a number) stay gaps. Colours are classes of the page's style,
so a chart follows the reader's light or dark scheme.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer.report_html import Html, join, tag

Array = npt.NDArray[np.float64]

WIDTH, HEIGHT = 560, 268
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40  # room for the numbers and the units
NOT_MEASURED = "Not measured yet."


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve, with a name for the key; `low` and `high` draw a band around it."""

    name: str
    x: Array
    y: Array
    colour: int = 0
    style: Literal["curve", "faint", "dots"] = "curve"
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What an axis shows and how far it reaches; without a range it fits the numbers."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    percent: bool = False
    room: float = 0.06
    """Share of the range left free at either end that the numbers decide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    axis: Axis
    low: float
    high: float
    ticks: list[float] = field(default_factory=list)

    def at(self, value: Array | float, start: int, end: int) -> Array:
        low, high = self._flat(self.low), self._flat(self.high)
        return np.asarray(start + (self._flat(value) - low) / (high - low) * (end - start))

    def _flat(self, value: Array | float) -> Array:
        return np.asarray(np.log10(value) if self.axis.log else value, dtype=np.float64)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    marks: Sequence[float] = (),
    note: str = "",
) -> Html:
    """A figure of lines; `marks` are places on the x axis drawn as dashed uprights."""
    shown = [line for line in lines if np.isfinite(line.y).any()]
    if not shown:
        return _figure(title, [], tag("p", NOT_MEASURED, class_="none"), note)
    edges = [e for line in shown for e in (line.y, line.low, line.high) if e is not None]
    x_scale = _scale(x, np.concatenate([line.x for line in shown]))
    y_scale = _scale(y, np.concatenate(edges))
    drawn: list[Html] = _frame(x_scale, y_scale, marks)
    for line in shown:
        drawn += _drawn(line, x_scale, y_scale)
    keys = [(line.name, line.colour) for line in shown if line.name]
    return _figure(title, keys, _svg(title, drawn), note)


def stacked_chart(
    title: str,
    at: Array,
    parts: Sequence[tuple[str, Array]],
    *,
    x: Axis,
    y: Axis,
    marks: Sequence[float] = (),
    note: str = "",
) -> Html:
    """A figure of areas, one on top of the other, the first lowest."""
    if not len(at):
        return _figure(title, [], tag("p", NOT_MEASURED, class_="none"), note)
    edges = np.cumsum([np.zeros(len(at)), *(np.nan_to_num(part) for _, part in parts)], axis=0)
    edges = np.minimum(edges, math.inf if y.high is None else y.high)
    x_scale = _scale(x, at)
    y_scale = _scale(y, np.concatenate([[0.0], edges[-1]]))
    across = _across(x_scale, at)
    drawn: list[Html] = []
    for index in range(len(parts)):
        low, high = (_up(y_scale, edge) for edge in (edges[index], edges[index + 1]))
        drawn.append(_area(across, low, high, f"area f{index}"))
    drawn = _frame(x_scale, y_scale, marks) + drawn
    keys = [(name, index) for index, (name, _) in enumerate(parts)]
    return _figure(title, keys, _svg(title, drawn), note)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within a range, about `count` of them."""
    span = high - low
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float | int, step: float | None = None) -> str:
    """A number for people: 1,234 · 0.25 · 3.2e-05 · 1.2M; enough digits to tell ticks apart."""
    size = max(abs(value), step or 0.0)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if step is None:
        return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    if 0 < size < 1e-3:
        return "0" if value == 0 else f"{value:.3g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits}f}"


def percent(value: float, step: float | None = None) -> str:
    """A share as a percentage."""
    digits = 1 if step is None else max(0, -math.floor(math.log10(step * 100) + 1e-9))
    return f"{value * 100:.{digits}f} %"


def _scale(axis: Axis, values: Array) -> _Scale:
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if axis.low is None else axis.low
    high = float(finite.max()) if axis.high is None else axis.high
    if axis.log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        high = high if high > low else low * 10
        powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
        return _Scale(axis=axis, low=low, high=high, ticks=[10.0**power for power in powers])
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        low, high = (low - room, high + room)
    else:
        room = axis.room * (high - low)
        low -= room if axis.low is None else 0.0
        high += room if axis.high is None else 0.0
    return _Scale(axis=axis, low=low, high=high, ticks=ticks(low, high))


def _across(scale: _Scale, value: Array | float) -> Array:
    return scale.at(value, LEFT, WIDTH - RIGHT)


def _up(scale: _Scale, value: Array | float) -> Array:
    return scale.at(value, HEIGHT - BOTTOM, TOP)


def _frame(x: _Scale, y: _Scale, marks: Sequence[float]) -> list[Html]:
    floor, wall = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn: list[Html] = []
    for value in y.ticks:
        at = float(_up(y, value))
        drawn.append(tag("line", x1=LEFT, x2=wall, y1=at, y2=at, class_="grid"))
        drawn.append(tag("text", _tick(y, value), x=LEFT - 8, y=at + 4, text_anchor="end"))
    for value in x.ticks:
        at = float(_across(x, value))
        drawn.append(tag("line", x1=at, x2=at, y1=floor, y2=floor + 4, class_="axis"))
        anchor = "end" if at > wall - 12 else "middle"
        drawn.append(tag("text", _tick(x, value), x=at, y=floor + 17, text_anchor=anchor))
    for value in marks:
        at = float(_across(x, value))
        drawn.append(tag("line", x1=at, x2=at, y1=TOP, y2=floor, class_="mark"))
    drawn.append(tag("line", x1=LEFT, x2=wall, y1=floor, y2=floor, class_="axis"))
    middle = (LEFT + wall) / 2
    drawn.append(tag("text", x.axis.label, x=middle, y=HEIGHT - 5, text_anchor="middle"))
    turn = f"rotate(-90 13 {(TOP + floor) / 2})"
    drawn.append(
        tag("text", y.axis.label, x=13, y=(TOP + floor) / 2, text_anchor="middle", transform=turn)
    )
    return drawn


def _tick(scale: _Scale, value: float) -> str:
    if scale.axis.log:
        power = round(math.log10(value))
        return "1" if power == 0 else f"10{str(power).translate(_SUPERSCRIPT)}"
    step = scale.ticks[1] - scale.ticks[0] if len(scale.ticks) > 1 else None
    form: Callable[[float, float | None], str] = percent if scale.axis.percent else number
    return form(value, step)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _drawn(line: Line, x_scale: _Scale, y_scale: _Scale) -> list[Html]:
    drawn: list[Html] = []
    across = _across(x_scale, line.x)
    if line.low is not None and line.high is not None:
        low, high = (_up(y_scale, edge) for edge in (line.low, line.high))
        drawn += [
            _area(across[piece], low[piece], high[piece], f"band f{line.colour}")
            for piece in _pieces(np.isfinite(low) & np.isfinite(high))
        ]
        if line.style == "dots":
            drawn += [
                tag("line", x1=a, x2=a, y1=l, y2=h, class_=f"curve s{line.colour}")
                for a, l, h in zip(across.tolist(), low.tolist(), high.tolist(), strict=True)
                if math.isfinite(l + h)
            ]
    up = _up(y_scale, line.y)
    kind = "faint" if line.style == "faint" else "curve"
    for piece in _pieces(np.isfinite(up)):
        points = _points(across[piece], up[piece])
        drawn.append(tag("polyline", points=points, class_=f"{kind} s{line.colour}"))
    if line.style == "dots" or len(up) == 1:
        drawn += [
            tag("circle", cx=float(a), cy=float(u), r=3.5, class_=f"dot f{line.colour}")
            for a, u in zip(across, up, strict=True)
            if math.isfinite(u)
        ]
    return drawn


def _area(across: Array, low: Array, high: Array, class_: str) -> Html:
    outline = f"{_points(across, high)} {_points(across[::-1], low[::-1])}"
    return tag("polygon", points=outline, class_=class_)


def _pieces(good: npt.NDArray[np.bool_]) -> list[slice]:
    """The unbroken stretches of a mask."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(change[::2], change[1::2], strict=True)]


def _points(across: Array, up: Array) -> str:
    return " ".join(f"{a:.1f},{u:.1f}" for a, u in zip(across, up, strict=True))


def _svg(title: str, drawn: Sequence[Html]) -> Html:
    return tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)


def _figure(title: str, keys: Sequence[tuple[str, int]], drawing: Html, note: str) -> Html:
    legend = [
        tag("span", tag("i", class_=f"f{colour}"), name, class_="key") for name, colour in keys
    ]
    foot = [tag("p", note, class_="note")] if note else []
    return tag("figure", tag("figcaption", tag("strong", title), *legend), drawing, join(foot))
