"""One panel of a plot in SVG: axes with round ticks, steps, areas and marks.

Knows numbers, not what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

INK, FAINT, GRID = "#1f2933", "#667085", "#e4e7ec"
FONT = "font-family='system-ui, sans-serif'"


def ticks(most: float, count: int = 5) -> list[float]:
    """Round numbers from 0 up to the first at or above `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw * (1 - 1e-9))
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


class Panel:
    """A panel at a place of the drawing, with both axes from 0.

    Args:
        x, y, width, height: the inner rectangle, in pixels.
        title: above it.
        label: below the x axis.
        most_x, most_y: largest values; axes end at the next round number.
    """

    def __init__(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        title: str,
        label: str,
        most_x: float,
        most_y: float,
    ) -> None:
        self._x, self._y, self._width, self._height = x, y, width, height
        self._ticks_x, self._ticks_y = ticks(most_x, 6), ticks(most_y, 4)
        self.parts: list[str] = []
        self._text(x, y - 12, title, size=14, weight="600")
        self._text(x + width, y + height + 34, label, anchor="end", colour=FAINT)
        for value in self._ticks_y:
            down = self._down(value)
            self._line(x, down, x + width, down, GRID)
            self._text(x - 8, down + 4, f"{value:g}", anchor="end", colour=FAINT)
        for value in self._ticks_x:
            right = self._right(value)
            self._line(right, y + height, right, y + height + 4, FAINT)
            self._text(right, y + height + 18, f"{value:g}", anchor="middle", colour=FAINT)
        self._line(x, y + height, x + width, y + height, FAINT)

    def steps(self, points: Sequence[tuple[float, float]], colour: str, *, filled: bool = False) -> None:
        """A line that keeps each value until the next point."""
        if not points:
            return
        path = [f"M{self._right(points[0][0]):.1f} {self._down(points[0][1]):.1f}"]
        for x, y in points[1:]:
            path.append(f"H{self._right(x):.1f}V{self._down(y):.1f}")
        if filled:
            bottom = self._y + self._height
            area = f"{' '.join(path)}V{bottom:.1f}H{self._right(points[0][0]):.1f}Z"
            self.parts.append(f"<path d='{area}' fill='{colour}' fill-opacity='.15'/>")
        self.parts.append(f"<path d='{' '.join(path)}' fill='none' stroke='{colour}' stroke-width='1.8'/>")

    def mark(self, x: float, text: str, colour: str, row: int) -> None:
        """A dashed vertical line with a text beside it; `row` keeps the texts of several apart."""
        right, top = self._right(x), self._y
        self._line(right, top, right, top + self._height, colour, dashes="4 3")
        near_end = right > self._x + 0.8 * self._width
        shift, anchor = (-5, "end") if near_end else (5, "start")
        down = top + self._height - 10 - 16 * row
        self._text(right + shift, down, text, anchor=anchor, colour=colour)

    def cross(self, x: float, colour: str) -> None:
        """A small cross on the x axis."""
        right, down = self._right(x), self._y + self._height
        self.parts.append(
            f"<path d='M{right - 3:.1f} {down - 3:.1f}l6 6m-6 0l6 -6' stroke='{colour}' stroke-width='1.5'/>"
        )

    def _right(self, value: float) -> float:
        return self._x + self._width * value / self._ticks_x[-1]

    def _down(self, value: float) -> float:
        return self._y + self._height * (1 - value / self._ticks_y[-1])

    def _line(self, x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> None:
        extra = f" stroke-dasharray='{dashes}'" if dashes else ""
        self.parts.append(
            f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}'{extra}/>"
        )

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        colour: str = INK,
        size: int = 11,
        weight: str = "400",
    ) -> None:
        self.parts.append(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' font-size='{size}' "
            f"font-weight='{weight}' {FONT}>{escape(text)}</text>"
        )
