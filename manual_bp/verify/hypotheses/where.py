"""Which elements are wrong, in words, and what the gradient is there: one description for all.

A description is given only if it holds exactly: every wrong element is in it, no right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case

RATIOS = {
    0.0: "0 there",
    0.5: "half the derivative there",
    2.0: "twice the derivative there",
    -1.0: "of the other sign there",
}


def place(wrong: Tensor, known: Tensor, name: str, case: Case, own: Any = None) -> str:
    """The set of wrong elements among the known ones.

    Args:
        wrong: a mask in the tensor's shape.
        known: what can be told at all, in the same shape.
        name: of the tensor.
        case: its arguments and outputs are what a set may depend on.
        own: the tensor itself, or None.
    """
    count, total = int(wrong.sum()), int(known.sum())
    if count == total:
        return "all elements" if total > 1 else name
    for text, inside in _sets(wrong, name, case, own):
        if inside.shape == wrong.shape and bool((inside[known] == wrong[known]).all()):
            return f"{text} ({count} of {total} elements)"
    first = tuple(wrong.nonzero()[0].tolist())
    return f"{count} of {total} elements, first {_at(name, first)}"


def ratio(gradient: Tensor, value: Tensor, wrong: Tensor) -> str:
    """What the gradient is at the wrong elements, or ""."""
    g, v = gradient[wrong], value[wrong]
    if not g.numel() or not bool(torch.isfinite(g).all()):
        return ""
    if bool((v.abs() <= 1e-9 * (1e-30 + g.abs())).all()):
        return "the derivative is 0 there"
    below = float(v @ v)
    factor = float(g @ v) / below
    if not bool(((g - factor * v).abs() <= 1e-4 * v.abs().max()).all()):
        return ""
    near = next((text for r, text in RATIOS.items() if abs(r - factor) < 1e-4), None)
    if abs(factor - 1) < 1e-4:
        return "the gradient is nearly the derivative there"
    return f"the gradient is {near or f'{factor:.4g} times the derivative there'}"


def _at(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _sets(wrong: Tensor, name: str, case: Case, own: Any) -> Iterator[tuple[str, Tensor]]:
    yield from _slices(wrong, name)
    tensors = [(name, own)] if isinstance(own, Tensor) else []
    tensors += [
        (n, a)
        for n, a in zip(case.subject.names, case.args, strict=True)
        if isinstance(a, Tensor) and a is not own
    ]
    tensors += [("the output", o) for o in case.values()]
    for label, t in tensors:
        yield from _by_value(label, t, wrong)
    for label, t in tensors:
        if not t.is_floating_point() and not t.is_complex() and t.dtype != torch.bool:
            yield from _by_index(label, t, wrong)


def _slices(wrong: Tensor, name: str) -> Iterator[tuple[str, Tensor]]:
    """One index, or a range of them, along one dimension."""
    for d in range(wrong.dim()):
        others = [k for k in range(wrong.dim()) if k != d]
        hit = wrong.any(others) if others else wrong
        numbers = hit.nonzero().reshape(-1).tolist()
        if not numbers or len(numbers) == wrong.shape[d]:
            continue
        low, high = numbers[0], numbers[-1]
        before, after = [":"] * d, [":"] * (wrong.dim() - d - 1)
        if len(numbers) == 1:
            part = str(low)
        elif high == wrong.shape[d] - 1 and len(numbers) == high - low + 1:
            part = f"{low}:"
        elif low == 0 and len(numbers) == high + 1:
            part = f":{high + 1}"
        elif numbers == list(range(low, wrong.shape[d], 2)):
            part = f"{low or ''}::2"
        elif len(numbers) <= 3:
            part = f"[{', '.join(map(str, numbers))}]"
        else:
            continue
        inside = torch.zeros_like(wrong).index_fill(d, torch.tensor(numbers), 1)
        yield f"{name}[{', '.join([*before, part, *after])}]", inside


def _by_value(label: str, t: Tensor, wrong: Tensor) -> Iterator[tuple[str, Tensor]]:
    """By the values of a tensor that broadcasts to the shape, or to its first dimensions."""
    if t.is_complex() or t.layout != torch.strided:
        return
    t = t.detach().cpu()
    if t.dim() < wrong.dim() and t.dim() > 0 and t.shape == wrong.shape[: t.dim()]:
        t = t.reshape(*t.shape, *[1] * (wrong.dim() - t.dim()))
    try:
        t = t.expand(wrong.shape)
    except RuntimeError:
        return
    if t.dtype == torch.bool:
        yield f"where {label} is True", t
        yield f"where {label} is False", ~t
        return
    yield f"where {label} = 0", t == 0
    yield f"where {label} > 0", t > 0
    yield f"where {label} < 0", t < 0
    yield f"where {label} is not 0", t != 0
    yield f"where {label} ≥ 0", t >= 0
    yield f"where {label} ≤ 0", t <= 0
    for what, v in ((label, t), (f"|{label}|", t.abs())):
        inside, outside = v[wrong].double(), v[~wrong].double()
        if min(inside.numel(), outside.numel()) < 3:
            continue
        if inside.min() > outside.max():
            yield f"where {what} > {float(inside.min() + outside.max()) / 2:.3g}", v >= inside.min()
        if inside.max() < outside.min():
            yield f"where {what} < {float(inside.max() + outside.min()) / 2:.3g}", v <= inside.max()


def _by_index(label: str, t: Tensor, wrong: Tensor) -> Iterator[tuple[str, Tensor]]:
    """By how often a row is named in an index."""
    flat = t.detach().reshape(-1).cpu().long()
    if not wrong.dim() or not flat.numel() or flat.min() < 0:
        return
    counts = torch.bincount(flat, minlength=wrong.shape[0])
    if len(counts) != wrong.shape[0]:
        return
    shape = (-1, *[1] * (wrong.dim() - 1))
    for text, rows in (
        (f"rows that occur more than once in {label}", counts > 1),
        (f"rows that occur in {label}", counts > 0),
        (f"rows that do not occur in {label}", counts == 0),
    ):
        yield text, rows.reshape(shape).expand(wrong.shape)
