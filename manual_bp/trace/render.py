"""A story as text for the terminal, as Markdown, LaTeX or HTML, and the network alone as SVG."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape

from manual_bp.trace import draw
from manual_bp.trace.blocks import Block, Drawing, Heading, Paragraph, Step, Table
from manual_bp.trace.tex import formula as tex
from manual_bp.trace.tex import prose

_WIDTH = 100  # what a projector shows of a line; the shape stands at its end


def text(blocks: Sequence[Block]) -> str:
    """Plain text; the shape of each step at the right."""
    lines: list[str] = []
    for block in blocks:
        lines.append("")
        if isinstance(block, Heading):
            lines += [block.text, "─" * len(block.text)]
        elif isinstance(block, Paragraph):
            lines += textwrap.wrap(block.text, _WIDTH, break_on_hyphens=False)
        elif isinstance(block, Drawing):
            lines += draw.text(block.n)
        elif isinstance(block, Step):
            gap = " " * max(2, _WIDTH - len(block.formula) - len(block.shape))
            lines.append(f"{block.formula}{gap}{block.shape}")
            lines += [f"    {part}" for line in block.lines for part in _folded(line)]
        else:
            lines += _columns(block)
    return "\n".join(lines).strip("\n") + "\n"


def markdown(blocks: Sequence[Block]) -> str:
    """Markdown: formulas as code, so no symbol is taken for markup; numbers in fenced blocks."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"### {_plain(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(_plain(block.text))
        elif isinstance(block, Drawing):
            parts.append("\n".join(("```", *draw.text(block.n), "```")))
        elif isinstance(block, Step):
            numbers = "\n".join(part for line in block.lines for part in _folded(line))
            parts.append(f"`{block.formula}`, shape `{block.shape}`\n\n```\n{numbers}\n```")
        else:
            parts.append(_table(block))
    return "\n\n".join(parts) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """One HTML page that needs nothing else."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "trace")
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>body{max-width:60em;margin:2em auto;font:1em sans-serif}"
        "pre{white-space:pre-wrap;margin-left:2em}b{float:right;font-weight:normal}"
        "td,th{padding:0 1em 0 0;text-align:left}svg{display:block;margin:1em 0}"
        ".page{break-before:page}</style>"
    ]
    for block in blocks:
        if isinstance(block, Heading):
            page = ' class="page"' if block.new_page else ""
            parts.append(f"<h2{page}>{escape(block.text)}</h2>")
        elif isinstance(block, Paragraph):
            parts.append(f"<p>{escape(block.text)}</p>")
        elif isinstance(block, Drawing):
            parts.append(draw.svg(block.n))
        elif isinstance(block, Step):
            lines = escape("\n".join(block.lines))
            parts.append(f"<code>{escape(block.formula)}</code><b>{escape(block.shape)}</b>")
            parts.append(f"<pre>{lines}</pre>")
        else:
            rows = [
                "".join(f"<{cell}>{escape(value)}</{cell}>" for value in row)
                for cell, row in (("th", block.header), *(("td", row) for row in block.rows))
            ]
            parts.append(f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>")
    return "\n".join(parts) + "\n</html>\n"


def latex(blocks: Sequence[Block]) -> str:
    """A LaTeX document in ASCII: a line breaks at its + and = where it is too long."""
    parts = [
        "\\documentclass{article}\n\\usepackage{amsmath}\n\\usepackage[margin=2cm]{geometry}\n"
        "\\setlength{\\parindent}{0pt}\n\\raggedright\n\\begin{document}"
    ]
    for block in blocks:
        if isinstance(block, Heading):
            page = "\\newpage\n" if block.new_page else ""
            parts.append(f"{page}\\section*{{{prose(block.text)}}}")
        elif isinstance(block, Paragraph):
            parts.append(prose(block.text))
        elif isinstance(block, Drawing):
            parts.append(draw.latex(block.n))
        elif isinstance(block, Step):
            parts.append(f"\\medskip ${tex(block.formula)}$\\hfill {prose(block.shape)}")
            parts += [f"\\hangindent=4em \\quad ${tex(line)}$" for line in block.lines]
        else:
            rows = [" & ".join(map(prose, row)) + r" \\" for row in (block.header, *block.rows)]
            columns = "l" * len(block.header)
            table = "\n".join((f"\\begin{{tabular}}{{{columns}}}", *rows, "\\end{tabular}"))
            parts.append(f"{{\\small {table}}}")
    return "\n\n".join([*parts, "\\end{document}"]) + "\n"


def svg(blocks: Sequence[Block]) -> str:
    """The drawing alone.

    Raises:
        ValueError: the network is too large to be drawn.
    """
    for block in blocks:
        if isinstance(block, Drawing):
            return draw.svg(block.n)
    raise ValueError("--format svg draws a network of at most 4 units a layer")


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "html": html, "svg": svg}


def _folded(line: str) -> list[str]:
    """A long line broken before a sign that joins two terms, or after a comma."""
    whole = re.sub(r"(?<!,) (?![+=≈])", "\N{NO-BREAK SPACE}", line)
    parts = textwrap.wrap(whole, _WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False)
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in parts]


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
