"""The three ways tensors are compared here. torch is the oracle; no tolerance is absolute.

- `same`: bit for bit, or within a few units in the last place of each element.
- `agree`: two orders of summation in one precision: a few rounding units of the largest element.
- `accurate`: against a float64 reference, at most twice the error of torch's own kernel in the same
  precision.

Each refuses a reference that is zero, because against zero a missing gradient would pass. Say
`zero=True` where zero is the right answer; then equality is demanded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_ROUNDINGS = 16  # rounding units allowed between two orders of adding a few tens of numbers


def same(actual: Tensor, expected: Tensor, *, ulps: int = 0, zero: bool = False) -> None:
    """Equal in dtype, shape and device, and each element within `ulps` units in the last place."""
    _same_kind(actual, expected)
    _not_vacuous(expected, zero)
    if ulps == 0:
        if not bool(((actual == expected) | (actual.isnan() & expected.isnan())).all()):
            raise AssertionError(f"not bit for bit equal: {_describe(actual, expected)}")
        return
    spacing = torch.nextafter(expected.abs(), torch.full_like(expected, torch.inf)) - expected.abs()
    if not bool(((actual - expected).abs() <= ulps * spacing).all()):
        raise AssertionError(f"more than {ulps} ulp apart: {_describe(actual, expected)}")


def agree(actual: Tensor, expected: Tensor, *, zero: bool = False) -> None:
    """Equal dtype, shape, device, and within 16 rounding units of the largest expected element."""
    _same_kind(actual, expected)
    _not_vacuous(expected, zero)
    if expected.numel() == 0:
        return
    if not torch.equal(actual.isfinite(), expected.isfinite()):
        raise AssertionError(f"not finite in the same places: {_describe(actual, expected)}")
    finite = expected.isfinite()
    actual, expected = actual[finite], expected[finite]
    if expected.numel() == 0:
        return
    bound = _ROUNDINGS * torch.finfo(expected.dtype).eps * _norm(expected)
    if not float(_norm(actual - expected)) <= bound:
        raise AssertionError(f"further apart than {bound:.3g}: {_describe(actual, expected)}")


def accurate(actual: Tensor, builtin: Tensor, reference: Tensor) -> None:
    """At most twice as far from the float64 `reference` as torch's `builtin` in the same precision.

    Where torch happens to be nearer than half a rounding unit, half a rounding unit counts as its
    error: storing the exact answer in this dtype costs as much.
    """
    _same_kind(actual, builtin)
    if reference.dtype != torch.float64 or reference.shape != actual.shape:
        raise AssertionError(f"the reference must be float64 of shape {tuple(actual.shape)}")
    _not_vacuous(reference, zero=False)
    size = _norm(reference)
    unit = torch.finfo(actual.dtype).eps / 2 * size
    bound = 2 * max(_norm(builtin.double() - reference), unit)
    if not bound < size / 20:
        raise AssertionError(
            f"the bound {bound:.3g} would let an error of 5 % of the largest element {size:.3g} "
            f"pass"
        )
    if not _norm(actual.double() - reference) <= bound:
        raise AssertionError(f"error above {bound:.3g}: {_describe(actual.double(), reference)}")


def all_of(
    comparison: Callable[..., None], *sequences: Iterable[Tensor], **options: object
) -> None:
    """Apply one of the comparisons element by element; the sequences must have one length."""
    for tensors in zip(*sequences, strict=True):
        comparison(*tensors, **options)


def value_and_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    requires_grad: Sequence[bool] | None = None,
    cotangent: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value, and the gradients of Σ value ⊙ cotangent to the inputs that require one.

    Without a cotangent a fixed one without symmetry is used: ones would hide a transposed or
    ignored grad_output.
    """
    wanted = [True] * len(inputs) if requires_grad is None else requires_grad
    leaves = [t.detach().requires_grad_(w) for t, w in zip(inputs, wanted, strict=True)]
    value = function(*leaves)
    if cotangent is None:
        cotangent = make_cotangent(value)
    value.backward(cotangent)
    gradients = [t.grad for t in leaves if t.requires_grad]
    if any(g is None for g in gradients):
        raise AssertionError(f"no gradient for {[i for i, g in enumerate(gradients) if g is None]}")
    return value.detach(), tuple(g for g in gradients if g is not None)


def make_cotangent(value: Tensor) -> Tensor:
    """A fixed grad_output without symmetry: 0.3, −0.425, 0.55, 0.675, …, of the value's shape."""
    count = torch.arange(value.numel(), device=value.device, dtype=torch.float64)
    return (
        ((0.3 + count / 8) * (1 - 2 * (count % 3 == 1).double()))
        .to(value.dtype)
        .reshape(value.shape)
    )


def _norm(tensor: Tensor) -> float:
    return float(tensor.detach().double().abs().max())


def _same_kind(actual: Tensor, expected: Tensor) -> None:
    for name in ("shape", "dtype", "device"):
        if getattr(actual, name) != getattr(expected, name):
            raise AssertionError(
                f"{name}: {getattr(actual, name)}, expected {getattr(expected, name)}"
            )


def _not_vacuous(expected: Tensor, zero: bool) -> None:
    if not zero and expected.numel() and not bool(expected.count_nonzero()):
        raise AssertionError(
            "the expected tensor is zero: a missing gradient would pass; say zero=True if it is "
            "right"
        )


def _describe(actual: Tensor, expected: Tensor) -> str:
    if actual.numel() == 0:
        return "empty"
    return (
        f"largest difference {_norm(actual - expected):.3g} beside a largest element "
        f"{_norm(expected):.3g}"
    )
