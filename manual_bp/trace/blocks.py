"""What a trace is made of: headings, paragraphs, drawings, steps and tables."""

from __future__ import annotations

from dataclasses import dataclass

from manual_bp.notation import Notation


@dataclass(frozen=True)
class Heading:
    text: str
    new_page: bool = False


@dataclass(frozen=True)
class Paragraph:
    text: str
    answer: bool = False  # it tells what an exercise asks for


@dataclass(frozen=True)
class Drawing:
    """The network as a picture, in these symbols."""

    n: Notation


@dataclass(frozen=True)
class Step:
    """One formula, its shape, and the formula with the numbers filled in."""

    formula: str
    shape: str
    lines: tuple[str, ...]
    given: bool = False  # what the pass starts from


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Drawing | Step | Table
