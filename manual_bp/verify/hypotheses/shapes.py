"""Hypotheses about a gradient whose shape is not its input's.

The gradient is seen below autograd's engine, before the engine sums or refuses it.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.experiment import Experiment


def wrong_shape(experiment: Experiment, position: int, raw: Tensor) -> tuple[str, str]:
    """Kind and explanation for a gradient `raw`, for cotangent 0, of another shape."""
    shape = experiment.shape(position)
    expected, error = experiment.expected(position, 0)
    raw = raw.detach().to_dense().to("cpu", torch.float64)
    seen = f"its shape is {tuple(raw.shape)}, its input's is {tuple(shape)}"
    rtol = max(experiment.rtol, 1e-5)

    if raw.dim() == len(shape):
        for order in itertools.permutations(range(raw.dim())) if raw.dim() <= 4 else ():
            turned = raw.permute(order)
            if (
                turned.shape == shape
                and order != tuple(range(raw.dim()))
                and close(turned, expected, error, rtol)
            ):
                return (
                    "transposed",
                    f"{seen}; with dimensions exchanged, as {order}, it is the derivative",
                )

    dropped = _sum_to(raw, expected, error, rtol)
    if dropped is not None and math.prod(raw.shape) > math.prod(shape):
        hidden = (
            "autograd sums it silently" if _summable(raw.shape, shape) else "autograd refuses it"
        )
        return (
            "missing-batch-sum",
            f"{seen}; summed over dimensions {dropped} it is the derivative; {hidden}",
        )

    for other in experiment.case.checked:
        if other != position and experiment.shape(other) == raw.shape:
            theirs, theirs_error = experiment.expected(other, 0)
            if close(raw, theirs, theirs_error, rtol) and bool((raw != 0).any()):
                name = experiment.case.subject.names[other]
                return (
                    "gradient-of-another-input",
                    f"{seen}; it is the derivative by {name}: the order is mixed up",
                )

    if math.prod(raw.shape) == math.prod(shape) and close(
        raw.reshape(shape), expected, error, rtol
    ):
        rows = (
            experiment.case.shapes[0][0]
            if experiment.case.shapes and experiment.case.shapes[0]
            else 0
        )
        if rows == 1 and raw.dim() == len(shape) + 1 and raw.shape[0] == 1:
            return "missing-batch-sum", f"{seen}: the batch, here of size 1, is not summed over"
        return "wrong-shape", f"{seen}; the numbers are right, return them as {tuple(shape)}"
    if _summable(shape, raw.shape) and close(raw.expand(shape), expected, error, rtol):
        return (
            "wrong-shape",
            f"{seen}; every element has this derivative: expand it to the input's shape",
        )
    if _summable(raw.shape, shape) and math.prod(raw.shape) > math.prod(shape):
        return (
            "missing-batch-sum",
            f"{seen}; autograd sums it silently, and the sum is not the derivative either",
        )
    return "wrong-shape", f"{seen}, and no transposition or sum makes it the derivative"


def _summable(shape: torch.Size, target: torch.Size) -> bool:
    """Whether `target` broadcasts to `shape`, which is when the engine sums silently."""
    if len(target) > len(shape):
        return False
    return all(t in (1, s) for s, t in zip(reversed(shape), reversed(target), strict=False))


def _sum_to(raw: Tensor, expected: Tensor, error: Tensor, rtol: float) -> tuple[int, ...] | None:
    """The dimensions to sum `raw` over, dropped or kept as 1, so that it is the derivative."""
    if raw.dim() > 6:
        return None
    for count in range(1, raw.dim() + 1):
        for dims in itertools.combinations(range(raw.dim()), count):
            for keep in (False, True):
                total = raw.sum(dims, keepdim=keep)
                if total.shape == expected.shape and close(total, expected, error, rtol):
                    return dims
    return None
