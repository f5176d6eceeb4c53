"""Charts as SVG text: axes, lines, points that have names.

A chart knows no colours: marks have the class of their series (``s0`` to ``s9``)
and of their variant (``v0``, ``v1``, ... for the runs of a comparison), and
``templates/chart.css`` colours them, for light and for dark. Which numbers are
drawn is in ``charts.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 448, 12, 256  # of the plotted area
LINEAR_BELOW = 0.01  # a symlog axis is linear from 0 to here
SERIES, VARIANTS = 10, 3


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``; with ``names`` the values 0, 1, ... have names instead of numbers."""

    label: str
    low: float
    high: float
    kind: Literal["linear", "symlog"] = "linear"
    names: Sequence[str] = ()

    @classmethod
    def over(
        cls, label: str, values: Iterable[float], kind: Literal["linear", "symlog"] = "linear"
    ) -> Axis:
        """From 0, or the least value if that is negative, to a little above the largest."""
        known = [v for v in values if math.isfinite(v)]
        return cls(label, min(0.0, *known, 0.0), max([*known, 1e-9]) * 1.06, kind)

    @classmethod
    def close(cls, label: str, values: Iterable[float]) -> Axis:
        """Around the values, without 0, with whole ticks at both ends."""
        known = [v for v in values if math.isfinite(v)]
        step = _step(min(known), max(known))
        low, high = math.floor(min(known) / step) * step, math.ceil(max(known) / step) * step
        return cls(label, low, high if high > low else low + step)

    @classmethod
    def of_names(cls, label: str, names: Sequence[str]) -> Axis:
        return cls(label, -0.4, len(names) - 0.6, names=names)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        low, high, at = (self._spread(v) for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def _spread(self, value: float) -> float:
        if self.kind == "linear" or value <= LINEAR_BELOW:
            return value / LINEAR_BELOW if self.kind == "symlog" else value
        return 1 + math.log10(value / LINEAR_BELOW)

    def ticks(self) -> list[tuple[float, str]]:
        if self.names:
            return list(enumerate(self.names))
        if self.kind == "symlog":
            powers = (LINEAR_BELOW * 10**i * m for i in range(8) for m in (1, 3))
            return [(v, f"{v:g}") for v in (0.0, *powers) if v <= self.high]
        step = _step(self.low, self.high)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{round(i * step, 9):g}") for i in range(first, last + 1)]


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten, so that some five steps cover the range."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


@dataclass
class Chart:
    """One chart; marks lie over each other in the order in which they are added."""

    title: str
    x: Axis
    y: Axis
    _back: list[str] = field(default_factory=list)
    _marks: list[tuple[float, str]] = field(default_factory=list)  # (place from the left, mark)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + self.x.share(x) * (RIGHT - LEFT),
            BOTTOM - self.y.share(y) * (BOTTOM - TOP),
        )

    def line(self, points: Sequence[tuple[float, float]], look: str) -> None:
        """``look``: classes, for example those of :func:`look`."""
        places = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        self._back.append(f'<polyline class="line {look}" points="{places}"/>')

    def level(self, value: float, low: float | None, high: float | None) -> None:
        """A horizontal line across the chart, in its interval."""
        if low is not None and high is not None:
            top, bottom = (self.at(self.x.low, v)[1] for v in (high, low))
            self._back.insert(
                0,
                f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{RIGHT - LEFT}" '
                f'height="{bottom - top:.1f}"/>',
            )
        at = self.at(self.x.low, value)[1]
        self._back.append(
            f'<line class="level" x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}"/>'
        )

    def point(
        self,
        x: float,
        y: float,
        series: int,
        name: str,
        value: str,
        interval: tuple[float, float] | None = None,
        variant: int = 0,
        quiet: bool = False,
    ) -> None:
        """A mark that ``name`` and ``value`` tell apart, in words; the interval is that of y.

        A quiet mark shows only where the pointer or the keyboard is.
        """
        across, up = self.at(x, y)
        whisker = ""
        if interval is not None:
            low, high = (self.at(x, v)[1] for v in interval)
            whisker = (
                f'<path class="whisker" d="M{across:.1f} {low:.1f}V{high:.1f}'
                f'M{across - 3:.1f} {low:.1f}h6M{across - 3:.1f} {high:.1f}h6"/>'
            )
        words = f'data-name="{escape(name)}" data-value="{escape(value)}"'
        self._marks.append(
            (
                across,
                f'<g class="point {look(series, variant)}{" quiet" * quiet}" role="img" tabindex="-1" '
                f'aria-label="{escape(name)}: {escape(value)}" {words}>'
                f'<circle class="hit" cx="{across:.1f}" cy="{up:.1f}" r="11"/>{whisker}'
                f'<path class="mark" d="{mark(series, across, up)}"/></g>',
            )
        )

    def svg(self) -> str:
        """The chart; its marks come from left to right, as the keyboard walks through them."""
        marks = "".join(text for _, text in sorted(self._marks, key=lambda pair: pair[0]))
        marks = marks.replace('tabindex="-1"', 'tabindex="0"', 1)  # the way in
        return (
            f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'role="group" aria-label="{escape(self.title)}">'
            f"{self._axes()}{''.join(self._back)}{marks}</svg>"
        )

    def _axes(self) -> str:
        parts = []
        for value, text in self.x.ticks():
            at = self.at(value, self.y.low)[0]
            parts.append(f'<text class="tick" x="{at:.1f}" y="{BOTTOM + 17}">{escape(text)}</text>')
        for value, text in self.y.ticks():
            at = self.at(self.x.low, value)[1]
            parts.append(
                f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}"/>'
                f'<text class="tick side" x="{LEFT - 6}" y="{at + 4:.1f}">{escape(text)}</text>'
            )
        middle = (LEFT + RIGHT) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{HEIGHT - 8}">{escape(self.x.label)}</text>'
        )
        return f'<g aria-hidden="true">{"".join(parts)}</g>'


def look(series: int, variant: int = 0) -> str:
    """The classes of a mark."""
    return f"s{series % SERIES} v{variant % VARIANTS}"


def mark(series: int, x: float, y: float) -> str:
    """The path of a series' mark: its shape tells it apart where colours do not, or come again."""
    d = 5.0
    shapes = (
        f"M{x - d:.1f} {y:.1f}a{d} {d} 0 1 0 {2 * d} 0a{d} {d} 0 1 0 {-2 * d} 0z",
        f"M{x - d:.1f} {y - d + 1:.1f}h{2 * d}l{-d} {2 * d - 1}z",
        f"M{x - d + 0.6:.1f} {y - d + 0.6:.1f}h{2 * d - 1.2}v{2 * d - 1.2}h{1.2 - 2 * d}z",
        f"M{x:.1f} {y - d - 1:.1f}l{d + 1} {d + 1}l{-d - 1} {d + 1}l{-d - 1} {-d - 1}z",
        f"M{x - d:.1f} {y + d - 1:.1f}h{2 * d}l{-d} {1 - 2 * d}z",
    )
    return shapes[(series + series // SERIES) % len(shapes)]
