"""A story as text for the terminal, or as Markdown, which TensorBoard's text tab shows too."""

from __future__ import annotations

from collections.abc import Sequence

from manual_bp.trace.blocks import Block, Heading, Paragraph, Step, Table

_WIDTH = 100  # where the shape stands in the terminal


def text(blocks: Sequence[Block]) -> str:
    """Plain text; the shape of each step at the right."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += ["", block.text, "─" * len(block.text)]
        elif isinstance(block, Paragraph):
            lines += ["", block.text]
        elif isinstance(block, Step):
            gap = " " * max(2, _WIDTH - len(block.formula) - len(block.shape))
            lines += [
                "",
                f"{block.formula}{gap}{block.shape}",
                *(f"    {line}" for line in block.lines),
            ]
        else:
            lines += ["", *_columns(block)]
    return "\n".join(lines).strip("\n") + "\n"


def markdown(blocks: Sequence[Block]) -> str:
    """Markdown: formulas as code, so no symbol is taken for markup; numbers in fenced blocks."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"### {_plain(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(_plain(block.text))
        elif isinstance(block, Step):
            numbers = "\n".join(block.lines)
            parts.append(f"`{block.formula}`, shape `{block.shape}`\n\n```\n{numbers}\n```")
        else:
            parts.append(_table(block))
    return "\n\n".join(parts) + "\n"


def _columns(table: Table) -> list[str]:
    rows = (table.header, *table.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _table(table: Table) -> str:
    header = f"| {' | '.join(table.header)} |\n|{'---|' * len(table.header)}"
    body = (f"| {' | '.join(f'`{cell}`' if cell else '' for cell in row)} |" for row in table.rows)
    return "\n".join((header, *body))


def _plain(line: str) -> str:
    """Escape what Markdown would take for markup in running text."""
    for character in "_*`<":
        line = line.replace(character, f"\\{character}")
    return line
