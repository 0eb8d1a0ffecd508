"""Numbers for people: four digits, a real minus sign, and long sums, vectors and matrices shortened
by size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHOWN = 4  # entries of a vector, terms of a sum, units written out: all of them up to this many
FEW = 3  # of them where there are more
MINUS = "−"


def number(value: float) -> str:
    """0.7500 as 0.75, −0.046875 as −0.04688."""
    text = f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+").replace("-", MINUS)
    return "0" if text == f"{MINUS}0" else text


def factor(value: float) -> str:
    """A number inside a product: in parentheses where it is negative."""
    text = number(value)
    return f"({text})" if text.startswith(MINUS) else text


def vector(values: Tensor) -> str:
    """(0.75, 0.25), or the first few, how many more, and the norm."""
    items = [number(v) for v in values[: SHOWN * 3].tolist()]
    if len(values) <= SHOWN * 3:
        return f"({', '.join(items)})"
    shown = ", ".join(items[:FEW])
    return f"({shown}, … {len(values) - FEW} more), norm {number(float(values.norm()))}"


def matrix(values: Tensor) -> str:
    """[[1, 2], [3, 4]], or the size, the norm and the largest entry."""
    if max(values.shape) <= SHOWN:
        rows_as_text = ("[" + ", ".join(number(v) for v in row) + "]" for row in values.tolist())
        return f"[{', '.join(rows_as_text)}]"
    row, column = largest_entry(values)
    rows, columns = values.shape
    return (
        f"{rows} × {columns}, norm {number(float(values.norm()))}, "
        f"largest {number(float(values[row, column]))} at row {row + 1}, column {column + 1}"
    )


def largest_entry(values: Tensor) -> tuple[int, int]:
    """Row and column of the entry of largest size."""
    row, column = divmod(int(values.abs().argmax()), values.shape[1])
    return row, column


def sum_of_products(left: Tensor, right: Tensor, *, bias: float | None = None) -> str:
    """left₁ · right₁ + left₂ · right₂ + …: the largest terms, and what the others add up to."""
    terms = left * right
    if len(terms) <= SHOWN:
        shown, rest = list(range(len(terms))), 0
    else:
        shown = sorted(torch.topk(terms.abs(), FEW).indices.tolist())
        rest = len(terms) - FEW
    parts = [f"{factor(float(left[i]))} · {factor(float(right[i]))}" for i in shown]
    if rest:
        others = float(terms.sum() - terms[shown].sum())
        parts.append(f"[{rest} smaller terms: {number(others)}]")
    if bias is not None:
        parts.append(factor(bias))
    return " + ".join(parts)


def written_out(n: int) -> Sequence[int]:
    """The units that are written out one by one: all, or the first few."""
    return range(n if n <= SHOWN else FEW)
