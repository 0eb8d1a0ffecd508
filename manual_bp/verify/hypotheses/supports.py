"""Hypothesis: the gradient carries what comes from an output element to the wrong inputs.

For an output element o let T_o be the inputs it depends on, and O_o those its gradient reaches:

    T_o spans dimension 1, O_o dimension 0           a sum, mean or statistic over the wrong one
    T_o is in block c // (C/G), O_o where c % G is   a grouped index
    O_o is T_o, moved by k along one dimension       off by one

Nothing is said unless the numbers differ in their places, which no formula has by chance.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify.hypotheses.evidence import Evidence
from manual_bp.verify.hypotheses.outputs import Rows, indices, rows, span


def misplaced(seen: Evidence) -> tuple[str, str] | None:
    """Kind and explanation, or None if the places are right."""
    measured = rows(seen.experiment, seen.position)
    if measured is None:
        return None
    pairs = list(_pairs(measured, seen.experiment.shape(seen.position)))
    if not any(bool((true != own).any()) for _, true, own in pairs):
        return None
    text = _dimensions(pairs) or _moved(seen, pairs)
    return None if text is None else ("wrong-values", text)


def _pairs(measured: Rows, shape: torch.Size) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Output element, T_o and O_o as masks in the argument's shape; empty ones left out."""
    for o, true, own in zip(measured.chosen, *measured.supports(), strict=True):
        if bool(true.any()) and bool(own.any()):
            yield o, true.reshape(shape), own.reshape(shape)


def _dimensions(pairs: list[tuple[int, Tensor, Tensor]]) -> str | None:
    """The two sets span other dimensions."""
    true, own = span([t for _, t, _ in pairs]), span([o for _, _, o in pairs])
    if true == own:
        return None
    depends = f"an output element depends on elements along {_named(true)}"
    if not set(own) - set(true):
        missing = _named([d for d in true if d not in own])
        reaches = f"{depends}, and its gradient reaches none along {missing}"
        if own:
            return (
                f"{reaches}: a sum, mean or other statistic over too few dimensions, or one that "
                "counts as a constant"
            )
        return (
            f"{reaches}: a term with a sum over {missing} is missing, as that of a mean, norm or "
            "sum that counts as a constant"
        )
    if not true:
        depends = "each output element depends on one element"
    kind = "too many dimensions" if set(true) < set(own) else "the wrong dimension"
    return (
        f"{depends}, and its gradient reaches elements along {_named(own)}: a sum, mean or other "
        f"statistic over {kind}"
    )


def _named(dims: list[int]) -> str:
    if not dims:
        return "no dimension"
    word = "dimension" if len(dims) == 1 else "dimensions"
    return f"{word} {' and '.join(map(str, dims))}"


def _moved(seen: Evidence, pairs: list[tuple[int, Tensor, Tensor]]) -> str | None:
    """The two sets have other indices along one dimension."""
    shape = seen.case.shapes[0]
    for d in range(pairs[0][1].dim()):
        size = pairs[0][1].shape[d]
        places = [
            (torch.unravel_index(torch.tensor(o), shape), indices(true, d), indices(own, d))
            for o, true, own in pairs
        ]
        if all(true == own for _, true, own in places):
            continue
        for e, channels in enumerate(shape):
            numbered = [(int(at[e]), true, own) for at, true, own in places]
            grouped = _grouped(numbered, channels, size)
            if grouped:
                at = f"dimension {e} of the output" if len(shape) > 1 else "the output"
                return (
                    f"what comes from index c along {at} goes to the wrong group of {seen.name}'s "
                    f"dimension {d}: {grouped}"
                )
        for k in [k for n in range(1, size) for k in (n, -n)]:
            if all(_shifted(true, k, size) == own for _, true, own in places):
                return (
                    f"the gradient is shifted by {k} along dimension {d}: an index that is off, or "
                    "the wrong padding"
                )
        if all([size - 1 - i for i in reversed(true)] == own for _, true, own in places):
            return f"the gradient is in reverse order along dimension {d}"
    return None


def _shifted(indices: list[int], k: int, size: int) -> list[int]:
    return [i + k for i in indices if 0 <= i + k < size]


def _grouped(numbered: list[tuple[int, list[int], list[int]]], channels: int, size: int) -> str:
    """Whether c // n is taken for c % G or the reverse, in words, or ""."""
    for groups in range(2, channels):
        if channels % groups or size not in (groups, channels):
            continue
        n = channels // groups
        block = [
            _members(c // n, [j // n for j in range(size)], size, groups) for c in range(channels)
        ]
        strided = [
            _members(c % groups, [j % groups for j in range(size)], size, groups)
            for c in range(channels)
        ]
        names = f"c // {n}", f"c % {groups}"
        for right, wrong, said in ((block, strided, names[::-1]), (strided, block, names)):
            if all(right[c] == true and wrong[c] == own for c, true, own in numbered):
                return f"{said[0]} where {said[1]} is meant"
    return ""


def _members(group: int, of: list[int], size: int, groups: int) -> list[int]:
    """A group's own element, or its members."""
    return [group] if size == groups else [j for j, g in enumerate(of) if g == group]
