"""An exercise: a trace with a dotted line for each number that is to be found, and the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from manual_bp.trace.blocks import Block, Heading, Paragraph, Step

_BLANK = "." * 40
_WHOLE = re.compile(r"= [(\[].*, ")  # a vector or a matrix, whose entries are asked for already


def worksheet(blocks: Sequence[Block]) -> list[Block]:
    """The formulas with numbered blanks, up to the update; then every line under its number."""
    sheet: list[Block] = []
    answers: list[Block] = [Heading("Answers", new_page=True)]
    number, asked = 0, True
    for block in blocks:
        if isinstance(block, Step) and not block.given:
            lines = [line for line in block.lines if not _WHOLE.search(line)] or block.lines
            numbered = [f"({number + i}) {line}" for i, line in enumerate(lines, start=1)]
            number += len(numbered)
            answers.append(replace(block, lines=tuple(numbered)))
            blanks = (re.sub(r"(:?=|≈) .*", rf"\1 {_BLANK}", line) for line in numbered)
            block = replace(block, lines=tuple(blanks))
        elif isinstance(block, Paragraph) and block.answer:
            asked = False  # what follows is told, not asked
        (sheet if asked else answers).append(block)
    return sheet + answers
