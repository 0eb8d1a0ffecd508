"""The `--inputs` of the command line: a small language, read without evaluating anything.

    randn(4,3)  rand(4,3)  ones(5)  zeros(5)  randint(10, 4)  arange(6)    tensors; randint(high, …)
    3  -0.5  1e-3  None  True  False  mean  "two words"                    values and strings

Commas between them and `torch.` before a tensor are allowed. `randn`, `rand`, `ones` and `zeros`
are floating. `randn!(4,3)` requires a gradient; if any tensor does, only those are checked.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

ITEM = re.compile(
    r"""\s*(?:(?:torch\.)?(?P<call>[a-z_]+)(?P<ask>!?)\((?P<args>[^()]*)\)|"(?P<text>[^"]*)"|(?P<word>[\w.+\-/:]+))\s*,?"""
)
WORDS: dict[str, Any] = {"None": None, "True": True, "False": False}
MOST = 100_000_000  # elements of a tensor: none larger can be checked in a day
DIMENSIONS = 25
MAKERS = ("randn", "rand", "ones", "zeros", "randint", "arange")


def parse_inputs(text: str, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
    """Read one call's arguments.

    Raises:
        ValueError: something that is not in the language; the message says what was seen and what
            is allowed.
    """
    generator = torch.Generator().manual_seed(seed)
    found, place = [], 0
    while place < len(text.rstrip()):
        match = ITEM.match(text, place)
        if match is None or match.end() == place:
            raise ValueError(
                f"--inputs: cannot read {text[place:].strip()[:30]!r}: expected {_allowed()}"
            )
        place = match.end()
        found.append(_item(match, dtype, generator))
    return tuple(found)


def _item(match: re.Match[str], dtype: torch.dtype, generator: torch.Generator) -> Any:
    if match["call"] is not None:
        return _tensor(match["call"], match["args"], bool(match["ask"]), dtype, generator)
    if match["text"] is not None:
        return match["text"]
    word = match["word"]
    if word in WORDS:
        return WORDS[word]
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word


def _tensor(
    name: str, args: str, ask: bool, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    if name not in MAKERS:
        raise ValueError(f"--inputs: {name}({args}) is not known: expected {_allowed()}")
    try:
        sizes = [int(part) for part in args.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"--inputs: {name}({args[:60]}): the sizes must be integers, as in {name}(4,3)"
        ) from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"--inputs: {name}({args}): the sizes must not be negative")
    count = math.prod(sizes[1:] if name == "randint" else sizes)
    if count > MOST or len(sizes) > DIMENSIONS or max(sizes, default=0) >= 2**63:
        raise ValueError(
            f"--inputs: {name}({args[:60]}): at most {MOST:,} elements and {DIMENSIONS} "
            f"dimensions are allowed"
        )
    if name in ("randint", "arange"):
        if ask:
            raise ValueError(
                f"--inputs: {name}!({args}): integers have no gradient, leave out the !"
            )
        if (
            len(sizes) < 1
            or (name == "arange" and len(sizes) != 1)
            or (name == "randint" and sizes[0] < 1)
        ):
            raise ValueError(
                f"--inputs: {name}({args}): expected randint(high, size…) with high ≥ 1, or "
                f"arange(count)"
            )
        return (
            torch.randint(sizes[0], sizes[1:], generator=generator)
            if name == "randint"
            else torch.arange(sizes[0])
        )
    if name in ("ones", "zeros"):
        tensor = torch.full(sizes, float(name == "ones"), dtype=dtype)
    else:
        draw = torch.randn if name == "randn" else torch.rand
        tensor = draw(sizes, generator=generator, dtype=torch.float64).to(dtype)
    return tensor.requires_grad_(ask)


def _allowed() -> str:
    return f"{', '.join(m + '(sizes)' for m in MAKERS)}, a number, None, True, False or a word"
