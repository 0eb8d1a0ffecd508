"""When two tensors count as equal: exactly, to the last bits, to a tolerance, to an error."""

from __future__ import annotations

import torch
from torch import Tensor


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, NaN equal to NaN."""
    if a.shape != b.shape or freed(a) or freed(b):
        return False
    if a.layout != torch.strided or b.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return bool(torch.equal(a, b)) or bool(((a == b) | ((a != a) & (b != b))).all())


def freed(t: Tensor) -> bool:
    """Whether somebody has taken the memory away: to read the values would end the process."""
    if t.layout != torch.strided or not t.numel():
        return False
    last = sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    return t.untyped_storage().nbytes() < (t.storage_offset() + last + 1) * t.element_size()


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal up to the last bits."""
    return near(a, b, 1e-9)


def near(a: Tensor, b: Tensor, rtol: float, floor: float = 0.0) -> bool:
    """Equal to rtol of the largest of b plus a floor."""
    scale = b.abs().max() if b.numel() else torch.tensor(0.0)
    return bool(((a - b).abs() <= floor + rtol * scale).all())


def each_near(a: Tensor, b: Tensor) -> bool:
    """Each number on its own equal to four digits; b finite."""
    return bool(torch.isfinite(b).all()) and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-8))


def alike(a: Tensor | None, b: Tensor | None, rtol: float, floor: float = 0.0) -> bool:
    """Whether two gradients agree to rtol of the largest number plus a floor.

    None counts as 0, and NaN equals NaN.
    """
    if a is None or b is None:
        there = b if a is None else a
        return there is None or bool((there.detach().abs() <= floor).all())
    if a.shape != b.shape:
        return False
    a, b = a.detach(), b.detach()
    if same(a, b):
        return True
    a, b = torch.nan_to_num(a), torch.nan_to_num(b)
    return bool(((a - b).abs() <= floor + rtol * torch.maximum(a.abs().max(), b.abs().max())).all())


def close(value: Tensor, expected: Tensor, error: Tensor, rtol: float) -> bool:
    """Whether `value` is `expected` to rtol of its largest element plus three times its error.

    Elements whose expected value is NaN are unknown and left out. A NaN in `value` never agrees.
    """
    known = ~torch.isnan(expected)
    if not bool(known.any()):
        return True
    scale = expected[known].abs().max()
    return bool(((value - expected).abs()[known] <= rtol * scale + 3 * error[known]).all())


def telling(expected: Tensor, error: Tensor) -> bool:
    """Whether the derivative is measurably different from 0 somewhere."""
    known = ~torch.isnan(expected)
    return bool((expected[known].abs() > 10 * error[known]).any())
