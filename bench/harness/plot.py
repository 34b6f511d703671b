"""Tables as a picture: a panel per figure, a bar per peer. SVG, written by hand; knows tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.markdown import number
from harness.table import LIMIT, Row, Table

WIDTH, COLUMNS, PAD = 960, 2, 24
BAR, GAP, TITLE, HEAD = 18, 6, 34, 40
LABEL, VALUE = 104, 58
FONT = "font-family='system-ui, sans-serif'"
INK, FAINT = "#475569", "#94a3b8"
OWN, OTHER, BOUND = "#2563eb", "#cbd5e1", "#fbbf24"


def to_svg(tables: Sequence[Table]) -> str:
    """All tables below each other."""
    parts: list[str] = []
    top = float(PAD)
    for table in tables:
        parts.append(_text(PAD, top + 16, f"{table.model}, {table.variant}", size=17, weight=600))
        top += HEAD
        for start in range(0, len(table.rows), COLUMNS):
            rows = table.rows[start : start + COLUMNS]
            width = (WIDTH - PAD * (COLUMNS + 1)) / COLUMNS
            for column, row in enumerate(rows):
                parts += _panel(row, table, PAD + column * (width + PAD), top, width)
            top += max(_height(row) for row in rows)
    size = f"width='{WIDTH}' height='{top:.0f}' viewBox='0 0 {WIDTH} {top:.0f}'"
    ground = f"<rect width='{WIDTH}' height='{top:.0f}' fill='white'/>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{ground}{''.join(parts)}</svg>\n"


def _height(row: Row) -> float:
    return TITLE + len(row.cells) * (BAR + GAP) + 14


def _panel(row: Row, table: Table, left: float, top: float, width: float) -> list[str]:
    better = "more is better" if row.figure.higher_is_better else "less is better"
    parts = [
        _text(left, top + 14, row.figure.label, weight=600),
        _text(left + width, top + 14, f"{row.figure.unit}, {better}", fill=FAINT, anchor="end", size=11),
    ]
    shown = [name for name in table.peers if name in row.cells]
    longest = max(cell.median for cell in row.cells.values()) or 1.0
    room = width - LABEL - VALUE
    for place, name in enumerate(shown):
        cell, y = row.cells[name], top + TITLE - 8 + place * (BAR + GAP)
        fill = BOUND if name.startswith(LIMIT) else OWN if name == table.baseline else OTHER
        length = max(1.0, room * cell.median / longest)
        parts += [
            _text(left + LABEL - 8, y + 13, name, anchor="end"),
            f"<rect x='{left + LABEL:.1f}' y='{y:.1f}' width='{length:.1f}' height='{BAR}' fill='{fill}'/>",
            _text(left + LABEL + length + 6, y + 13, number(cell.median)),
        ]
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: int = 400,
    fill: str = INK,
    anchor: str = "start",
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' fill='{fill}' text-anchor='{anchor}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {FONT} {style}>{escape(text)}</text>"
