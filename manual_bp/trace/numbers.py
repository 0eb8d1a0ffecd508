"""What of a large network is written out: long sums, vectors and matrices are shortened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from torch import Tensor

from manual_bp.pencil import (
    Number,
    decimal,
    factor,
    in_decimals,
    listed,
    norm,
    rounded,
    text,
    written,
)

SHOWN = 4  # entries of a vector, terms of a sum, units written out: all of them up to this many
FEW = 3  # of them if there are more

At = tuple[int, int]  # row and column


def written_out(n: int) -> range:
    """The entries of a vector of n that are written out one by one: all, or the first few."""
    return range(n if n <= SHOWN else FEW)


def entries(values: Tensor) -> list[At]:
    """The entries of a matrix that are written out: all of a small one, else the largest."""
    rows, columns = values.shape
    if max(values.shape) <= SHOWN:
        return [(i, j) for i in range(rows) for j in range(columns)]
    row, column = divmod(int(values.abs().argmax()), columns)
    return [(row, column)]


def vector(values: Sequence[Number]) -> str:
    """(0.75, 0.25), or the first few, how many more, and the norm."""
    if len(values) <= SHOWN * 3:
        return listed(values) + in_decimals(values)
    shown = ", ".join(map(text, values[:FEW]))
    return f"({shown}, … {len(values) - FEW} more), norm {text(norm(values))}"


def matrix(values: Tensor, carried: Mapping[At, Number]) -> str:
    """[[1, 2], [3, 4]], or the size, the norm and the largest entry.

    Args:
        values: the matrix.
        carried: its `entries` as they are written.
    """
    rows, columns = values.shape
    if len(carried) == values.numel():
        every = [[carried[i, j] for j in range(columns)] for i in range(rows)]
        rows_as_text = (f"[{', '.join(map(text, row))}]" for row in every)
        return f"[{', '.join(rows_as_text)}]"
    (((row, column), largest),) = carried.items()
    return (
        f"{rows} × {columns}, norm {text(rounded(float(values.norm())))}, "
        f"largest {text(largest)} at row {row + 1}, column {column + 1}"
    )


def added(terms: Sequence[tuple[str, Number]]) -> tuple[str, Any]:
    """term + term + …, and their sum: the largest terms, and what the others add up to."""
    shown = list(range(len(terms)))
    if len(terms) > SHOWN:
        by_size = sorted(shown, key=lambda i: -abs(decimal(terms[i][1])))
        shown = sorted(by_size[:FEW])
    parts, values = [terms[i][0] for i in shown], [terms[i][1] for i in shown]
    if left := [value for i, (_, value) in enumerate(terms) if i not in shown]:
        told, rest = written(sum(left, Decimal()))
        parts.append(f"[{len(left)} smaller terms: {told.split()[1]}]")
        values.append(rest)
    total: Any = values[0]
    for value in values[1:]:
        total = total + value
    return " + ".join(parts), total


def products(left: Sequence[Number], right: Sequence[Number]) -> tuple[str, Any]:
    """left₁ · right₁ + left₂ · right₂ + …, and its value."""
    return added([(f"{factor(a)} · {factor(b)}", a * b) for a, b in zip(left, right, strict=True)])
