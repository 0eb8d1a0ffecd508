"""Copies with the original's layout in memory, and other layouts of the same values."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def kept(tensor: Tensor) -> bool:
    """Whether `clone` keeps the strides: it closes the gaps of a slice."""
    return (
        tensor.layout != torch.strided
        or tensor.is_contiguous()
        or torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    )


def copy(tensor: Tensor) -> Tensor:
    """A differentiable copy with the same strides and offset; gaps between elements hold NaN."""
    if kept(tensor) or not tensor.numel() or not (tensor.is_floating_point() and injective(tensor)):
        return tensor.clone()
    return like(tensor, tensor)


def injective(tensor: Tensor) -> bool:
    """Whether no two elements share a place.

    Sorted by stride, each stride must be beyond the reach of the smaller ones.
    """
    reach = 0
    for stride, n in sorted(
        (s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1
    ):
        if stride <= reach:
            return False
        reach += (n - 1) * stride
    return True


def like(values: Tensor, other: Tensor) -> Tensor:
    """The same values in the layout of `other`, which must be `injective`; differentiable."""
    return cast(Tensor, _LaidOut.apply(values, other))


class _LaidOut(torch.autograd.Function):
    """A copy, and no as_strided: that gives a view, and its derivative takes no sparse gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, other: Tensor) -> Tensor:
        last = sum((n - 1) * s for n, s in zip(other.shape, other.stride(), strict=True))
        offset = min(other.storage_offset(), 1)
        room = values.new_full((offset + last + 1,), torch.nan)
        placed = values.new_empty(0)
        placed.set_(room.untyped_storage(), offset, other.shape, other.stride())
        return placed.copy_(values)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def transposed(t: Tensor) -> Tensor:
    """The last two dimensions in the other order of memory."""
    return t.mT.contiguous().mT if t.dim() >= 2 else t


def every_second(t: Tensor) -> Tensor:
    """Every second element of a larger tensor, from its second on; the others are NaN."""
    if t.dim() == 0:
        return t
    wide = t.new_full((*t.shape, 2), torch.nan)
    wide[..., 1] = t
    return wide[..., 1]
