"""Numbers for people: four digits, a real minus sign, long sums and large tensors shortened."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.notation import minus

SHOWN = 4  # entries of a vector, terms of a sum, units written out: all of them up to this many
FEW = 3  # of them if there are more


def number(value: float | Tensor) -> str:
    """0.7500 as 0.75, −0.046875 as −0.04688."""
    text = f"{float(value):.4g}".replace("e-0", "e-").replace("e+0", "e+")
    return "0" if text == "-0" else minus(text)


def factor(value: float | Tensor) -> str:
    """A number inside a product: in parentheses if it is negative."""
    text = number(value)
    return f"({text})" if text.startswith("−") else text


def vector(values: Tensor) -> str:
    """(0.75, 0.25), or the first few, how many more, and the norm."""
    items = [number(v) for v in values[: SHOWN * 3].tolist()]
    if len(values) <= SHOWN * 3:
        return f"({', '.join(items)})"
    shown = ", ".join(items[:FEW])
    return f"({shown}, … {len(values) - FEW} more), norm {number(values.norm())}"


def matrix(values: Tensor) -> str:
    """[[1, 2], [3, 4]], or the size, the norm and the largest entry."""
    if max(values.shape) <= SHOWN:
        rows_as_text = ("[" + ", ".join(number(v) for v in row) + "]" for row in values.tolist())
        return f"[{', '.join(rows_as_text)}]"
    row, column = _largest(values)
    rows, columns = values.shape
    return (
        f"{rows} × {columns}, norm {number(values.norm())}, "
        f"largest {number(values[row, column])} at row {row + 1}, column {column + 1}"
    )


def sum_of_products(left: Tensor, right: Tensor) -> str:
    """left₁ · right₁ + left₂ · right₂ + …: the largest terms, and what the others add up to."""
    terms = left * right
    shown = list(range(len(terms)))
    if len(terms) > SHOWN:
        shown = sorted(torch.topk(terms.abs(), FEW).indices.tolist())
    parts = [f"{factor(left[i])} · {factor(right[i])}" for i in shown]
    if rest := len(terms) - len(shown):
        parts.append(f"[{rest} smaller terms: {number(terms.sum() - terms[shown].sum())}]")
    return " + ".join(parts)


def written_out(values: Tensor) -> range:
    """The entries of a vector that are written out one by one: all, or the first few."""
    return range(len(values) if len(values) <= SHOWN else FEW)


def entries(values: Tensor) -> list[tuple[int, int]]:
    """The entries of a matrix that are written out: all of a 2 × 2, else the largest one."""
    if values.numel() > SHOWN:
        return [_largest(values)]
    return [(i, j) for i in range(values.shape[0]) for j in range(values.shape[1])]


def _largest(values: Tensor) -> tuple[int, int]:
    row, column = divmod(int(values.abs().argmax()), values.shape[1])
    return row, column
