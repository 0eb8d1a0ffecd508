"""A small network drawn: in Braille dots for a terminal, as SVG, as a LaTeX picture."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from manual_bp.notation import Notation
from manual_bp.trace.tex import formula

Point = tuple[int, float]  # column, and row, both counted from 0
# The bits of a Braille character for the dots of its two columns, from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def units(n: Notation) -> Iterator[tuple[Point, str]]:
    """Each unit's place and name; every layer is centred."""
    for layer, size in enumerate(n.sizes):
        for unit in range(size):
            yield (layer, unit + (max(n.sizes) - size) / 2), n.unit(layer, unit)


def weights(n: Notation) -> Iterator[tuple[Point, Point, str]]:
    """Each weight's two ends and its name."""
    places = [[at for at, _ in units(n) if at[0] == layer] for layer in range(len(n.sizes))]
    for layer in range(1, len(n.sizes)):
        for j, to in enumerate(places[layer]):
            for k, from_ in enumerate(places[layer - 1]):
                yield from_, to, n.weight(layer, (j, k))


def text(n: Notation, height: int = 4) -> list[str]:
    """Lines for a terminal, `height` of them from one unit to the next, at most 90 columns."""
    names = list(units(n))
    wide, layers = max(len(name) for _, name in names), len(n.sizes)
    gap = min(20, (90 - wide * layers) // (layers - 1))  # columns between two layers
    dots: dict[tuple[int, int], int] = {}
    for (column, row), (_, to_row), _ in weights(n):
        left, right = 2 * (column * (wide + gap) + wide + 1), 2 * ((column + 1) * (wide + gap) - 1)
        for x in range(left, right):
            share = (x - left) / (right - left - 1)
            y = round(4 * height * (row + share * (to_row - row)) + 1.5)
            cell = (x // 2, y // 4)
            dots[cell] = dots.get(cell, 0x2800) | _DOTS[x % 2][y % 4]
    lines = [[" "] * ((wide + gap) * layers) for _ in range(height * (max(n.sizes) - 1) + 1)]
    for (x, y), character in dots.items():
        lines[y][x] = chr(character)
    for (column, row), name in names:
        start = column * (wide + gap) + wide - len(name)
        lines[round(height * row)][start : start + len(name)] = name
    return ["".join(line).rstrip() for line in lines]


def latex(n: Notation, gap: int = 110, height: int = 48, radius: int = 16) -> str:
    """A LaTeX picture, which needs no package."""
    top = height * (max(n.sizes) - 1)
    parts = [
        f"\\begin{{picture}}({gap * (len(n.sizes) - 1) + 2 * radius},{top + 2 * radius})"
        f"(-{radius},-{radius})"
    ]
    for (column, row), (_, to_row), _ in weights(n):
        rise, share = height * (row - to_row), radius / gap
        at = [(gap * (column + t), top - height * row + t * rise) for t in (share, 0.5, 1 - share)]
        parts.append("\\qbezier" + "".join(f"({x:.0f},{y:.0f})" for x, y in at))
    for (column, row), name in units(n):
        place = f"({gap * column},{top - height * row:.0f})"
        parts.append(f"\\put{place}{{\\makebox(0,0){{${formula(name)}$}}}}")
    return "\n".join([*parts, "\\end{picture}"])


def svg(n: Notation, gap: int = 280, height: int = 96, radius: int = 28) -> str:
    """An SVG element; each weight's name stands on its line, near the unit that it leaves."""

    def place(at: Point) -> tuple[float, float]:
        return radius + 4 + gap * at[0], radius + 4 + height * at[1]

    width, tall = place((len(n.sizes) - 1, max(n.sizes) - 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + radius + 4:g} '
        f'{tall + radius + 4:g}" width="{width + radius + 4:g}" font-family="serif" '
        f'text-anchor="middle"><rect width="100%" height="100%" fill="white"/>'
    ]
    lines, labels = [], []
    for from_, to, name in weights(n):
        (x1, y1), (x2, y2) = place(from_), place(to)
        lines.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="#777"/>')
        x, y = x1 + 0.2 * (x2 - x1), y1 + 0.2 * (y2 - y1) + 4
        labels.append(
            f'<text x="{x:g}" y="{y:g}" font-size="12" stroke="white" stroke-width="4" '
            f'paint-order="stroke">{escape(name)}</text>'
        )
    for at, name in units(n):
        x, y = place(at)
        labels.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius}" fill="#eef" stroke="#335"/>'
            f'<text x="{x:g}" y="{y + 5:g}">{escape(name)}</text>'
        )
    return "\n".join([*parts, *lines, *labels, "</svg>"]) + "\n"
