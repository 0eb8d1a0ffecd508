"""The `--inputs` of the command line: a small language, read without evaluating anything.

    randn(4,3)  rand(4,3)  ones(5)  zeros(5)  randint(10, 4)  arange(6)    tensors; randint(high, …)
    randn(4,3)*0.1+2  rand(5)*6-3                                          scaled and shifted
    tensor(0, 1.5, -2)  tensor(1, 2, 3; 4, 5, 6)                           given numbers, in rows
    psd(4)  probabilities(3,5)  sorted(8)  unit(3,4)  bool(4,3)            of a kind
    [randn(3), randn(3)]  (2, 2)                                           lists and tuples
    3  -0.5  1e-3  None  True  False  mean  "two words"                    values and strings

`psd(n)` is symmetric and positive definite, `probabilities` is positive and sums to 1 along the
last dimension, `sorted` ascends along it, `unit` has rows of length 1. Commas between the items and
`torch.` before a tensor are allowed. `randn!(4,3)` requires a gradient; if any tensor does, only
those are checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
ITEM = re.compile(
    r"""\s*(?:
      (?:torch\.)?(?P<call>[a-z_]+)(?P<ask>!?)\((?P<args>[^()]*)\)(?P<then>(?:[*+-]NUMBER)*)
    | (?P<open>[\[(])
    | (?P<close>[\])])
    | "(?P<text>[^"]*)"
    | (?P<word>[\w.+\-/:]++)(?!\()
    )\s*,?""".replace("NUMBER", NUMBER),
    re.VERBOSE,
)
STEP = re.compile(f"([*+-])({NUMBER})")
WORDS: dict[str, Any] = {"None": None, "True": True, "False": False}
MOST = 100_000_000  # elements of a tensor: none larger can be checked in a day
DIMENSIONS = 25
DEPTH = 8  # of lists in lists

Draw = Callable[[list[int], torch.Generator], Tensor]


def _normal(sizes: list[int], generator: torch.Generator) -> Tensor:
    return torch.randn(sizes, generator=generator, dtype=torch.float64)


def _uniform(sizes: list[int], generator: torch.Generator) -> Tensor:
    return torch.rand(sizes, generator=generator, dtype=torch.float64)


def _positive_definite(sizes: list[int], generator: torch.Generator) -> Tensor:
    n = sizes[-1]
    a = _normal([*sizes[:-1], n, n], generator)
    return a @ a.mT / n + torch.eye(n, dtype=torch.float64)


FLOATING: dict[str, Draw] = {
    "randn": _normal,
    "rand": _uniform,
    "ones": lambda sizes, generator: torch.ones(sizes, dtype=torch.float64),
    "zeros": lambda sizes, generator: torch.zeros(sizes, dtype=torch.float64),
    "psd": _positive_definite,
    "probabilities": lambda sizes, generator: _normal(sizes, generator).softmax(-1),
    "sorted": lambda sizes, generator: _normal(sizes, generator).sort(-1).values,
    "unit": lambda sizes, generator: torch.nn.functional.normalize(
        _normal(sizes, generator), dim=-1
    ),
}
ROWS = ("psd", "probabilities", "sorted", "unit")  # need a last dimension
WHOLE = ("randint", "arange", "bool")
MAKERS = (*FLOATING, *WHOLE)


def parse_inputs(text: str, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
    """Read one call's arguments.

    Raises:
        ValueError: something that is not in the language; the message says what was seen and what
            is allowed.
    """
    generator = torch.Generator().manual_seed(seed)
    stack: list[tuple[str, list[Any]]] = [("", [])]  # what is open, and the items in it
    place = 0
    while place < len(text.rstrip()):
        match = ITEM.match(text, place)
        if match is None or match.end() == place:
            seen = text[place:].strip()[:30]
            raise ValueError(f"--inputs: cannot read {seen!r}: expected {_allowed()}")
        place = match.end()
        if match["open"]:
            stack.append((match["open"], []))
            if len(stack) > DEPTH:
                raise ValueError(f"--inputs: more than {DEPTH} lists in each other")
        elif match["close"]:
            opened, items = stack.pop()
            if opened + match["close"] not in ("[]", "()"):
                raise ValueError(f"--inputs: a {match['close']} that closes nothing: {text!r}")
            stack[-1][1].append(items if opened == "[" else tuple(items))
        else:
            stack[-1][1].append(_item(match, dtype, generator))
    if len(stack) > 1:
        raise ValueError(f"--inputs: a {stack[-1][0]} that is not closed: {text!r}")
    return tuple(stack[0][1])


def _item(match: re.Match[str], dtype: torch.dtype, generator: torch.Generator) -> Any:
    if match["call"] is not None:
        return _tensor(match, dtype, generator)
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


def _tensor(match: re.Match[str], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    name, args, asked = match["call"], match["args"], bool(match["ask"])
    called = f"{name}{match['ask']}({args})"
    if name == "tensor":
        made = _given(args, called, dtype)
    elif name in FLOATING:
        sizes = _sizes(name, args)
        if name in ROWS and not sizes:
            raise ValueError(f"--inputs: {called}: expected sizes, as in {name}(4)")
        made = FLOATING[name](sizes, generator).to(dtype)
    elif name in WHOLE:
        made = _whole(name, args, generator)
    else:
        raise ValueError(f"--inputs: {name}({args}) is not known: expected {_allowed()}")
    for sign, number in STEP.findall(match["then"]):
        change = float(number) if made.is_floating_point() else _integer(number, called)
        made = made * change if sign == "*" else made + (change if sign == "+" else -change)
    if asked and not made.is_floating_point():
        raise ValueError(f"--inputs: {called}: integers have no gradient, leave out the !")
    return made.requires_grad_(asked)


def _integer(text: str, called: str) -> int:
    value = float(text)
    if not abs(value) < 2**53 or value != int(value):
        raise ValueError(f"--inputs: {called}: whole numbers take whole ones below 2⁵³, not {text}")
    return int(value)


def _sizes(name: str, args: str) -> list[int]:
    try:
        sizes = [int(part) for part in args.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"--inputs: {name}({args[:60]}): the sizes must be integers, as in {name}(4,3)"
        ) from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"--inputs: {name}({args}): the sizes must not be negative")
    count = math.prod(sizes[1:] if name == "randint" else sizes)
    count *= sizes[-1] if name == "psd" and sizes else 1
    if count > MOST or len(sizes) > DIMENSIONS or max(sizes, default=0) >= 2**63:
        raise ValueError(
            f"--inputs: {name}({args[:60]}): at most {MOST:,} elements and {DIMENSIONS} "
            f"dimensions are allowed"
        )
    return sizes


def _whole(name: str, args: str, generator: torch.Generator) -> Tensor:
    sizes = _sizes(name, args)
    if name == "bool":
        return torch.rand(sizes, generator=generator) < 0.5
    if not sizes or (name == "arange" and len(sizes) != 1) or (name == "randint" and sizes[0] < 1):
        raise ValueError(
            f"--inputs: {name}({args}): expected randint(high, size…) with high ≥ 1, or "
            "arange(count)"
        )
    if name == "arange":
        return torch.arange(sizes[0])
    return torch.randint(sizes[0], sizes[1:], generator=generator)


def _given(args: str, called: str, dtype: torch.dtype) -> Tensor:
    """`tensor(0, 1)` is whole, `tensor(0., 1)` floating; `;` begins a new row."""
    rows = [[part.strip() for part in row.split(",") if part.strip()] for row in args.split(";")]
    try:
        numbers: list[list[float]] = [[float(part) for part in row] for row in rows]
    except ValueError:
        expected = "expected numbers, as in tensor(0, 1.5, -2)"
        raise ValueError(f"--inputs: {called}: {expected}") from None
    if len({len(row) for row in numbers}) > 1:
        raise ValueError(f"--inputs: {called}: the rows have different lengths")
    whole = all(re.fullmatch(r"[+-]?\d+", part) for row in rows for part in row)
    if whole:
        numbers = [[_integer(part, called) for part in row] for row in rows]
    made = torch.tensor(numbers, dtype=torch.int64 if whole else dtype)
    return made if ";" in args else made[0]


def _allowed() -> str:
    makers = ", ".join(f"{maker}(sizes)" for maker in MAKERS)
    return f"{makers}, tensor(numbers), a list, a number, None, True, False or a word"
