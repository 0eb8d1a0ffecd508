"""Columns of the matrix: shapes and strides; each compares values and gradients with the twin's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests import test_gradients
from tests.correctness import compare
from tests.correctness.operations import Operation


def leading(*sizes: int) -> Callable[[Operation], None]:
    return lambda op: test_gradients.test_value_and_gradients_equal_the_twin(op, sizes)


def empty(op: Operation) -> None:
    test_gradients.test_empty_batches_equal_the_twin(op, (0,))


def _equal_on(op: Operation, inputs: list[Tensor]) -> None:
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    compare.agree(value, twin_value)
    compare.all_of(compare.agree, gradients, twin_gradients)


def size_1_channels(op: Operation) -> None:
    """Every dimension but the examples is 1; and one example of it."""
    for m in (5, 1):
        inputs = [t[..., :1] if t.dim() else t for t in op.inputs(leading=(m,))]
        inputs = [
            t if batched or t.dim() == 1 else t[:1]
            for t, batched in zip(inputs, op.batched, strict=True)
        ]
        _equal_on(op, inputs)


def n_in_0(op: Operation) -> None:
    """No columns: z = b and gradients of size 0; a cost is the mean or the sum of nothing."""
    inputs = list(op.inputs())
    inputs[0] = inputs[0][..., :0]
    if len(inputs) > 1:
        inputs[1] = inputs[1][..., :0]
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    if (
        op.name == "mse half_per_example"
    ):  # m is the elements over n_out = 0: NaN, as the mean of nothing
        if not value.isnan() or [g.shape for g in gradients] != [t.shape for t in inputs]:
            raise AssertionError(f"{value}")
        return
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    compare.agree(value, twin_value, zero=True)
    compare.all_of(compare.agree, gradients, twin_gradients, zero=True)


def cotangents(op: Operation) -> None:
    """grad_output expanded with stride 0, and transposed."""
    inputs = op.inputs()
    value = op.twin(*inputs)
    layouts = [torch.full((), 0.7, dtype=value.dtype).expand(value.shape)]
    if value.dim() == 2:
        layouts.append(compare.make_cotangent(value).t().contiguous().t())
    for g in layouts:
        ours = compare.value_and_gradients(op.ours, inputs, cotangent=g)[1]
        compare.all_of(
            compare.agree, ours, compare.value_and_gradients(op.twin, inputs, cotangent=g)[1]
        )
