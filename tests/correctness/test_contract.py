"""What backward returns before the engine repairs it: `y.grad_fn.apply(g)`.

The engine sums a gradient to the input's shape, casts it to its dtype and drops what is not needed,
so a Function can be wrong in all three and no ordinary test sees it. Here the node itself is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import manual_bp as mbp
from manual_bp.function import apply
from tests.correctness import compare
from tests.correctness.operations import LINEAR, LINEAR_NO_BIAS, MSE, SIGMOID, Operation

SINGLE = (LINEAR, LINEAR_NO_BIAS, SIGMOID, *MSE.values())
LEADING = ((5,), (), (2, 3), (1,), (0,), (2, 1, 3))
every_operation = pytest.mark.parametrize("op", SINGLE, ids=str)


def below_the_engine(
    op: Operation, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], g: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """The gradients of `inputs`, one for each, as the Function returned them."""
    value = op.ours(*[t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)])
    result = value.grad_fn.apply(compare.make_cotangent(value) if g is None else g)  # type: ignore[union-attr]
    return result if isinstance(result, tuple) else (result,)


def subsets(op: Operation) -> Iterator[tuple[bool, ...]]:
    for needed in product([False, True], repeat=len(op.shapes)):
        if any(needed):
            yield needed


def check_kind_and_none(op: Operation, dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    """One gradient an argument, of its shape, dtype and device; None where none is needed."""
    inputs = op.inputs(dtype, leading)
    arguments = 1 if op is SIGMOID else 3  # (x, W, b or None), (z), (a, y, reduction)
    for needed in subsets(op):
        gradients = below_the_engine(op, inputs, needed)
        if len(gradients) != arguments:
            raise AssertionError(f"{len(gradients)} gradients for {arguments} arguments")
        for tensor, need, gradient in zip(inputs, needed, gradients, strict=False):
            if (gradient is not None) != need:
                raise AssertionError(
                    f"needed {needed}: a gradient is "
                    f"{'missing' if need else 'given that is not needed'}"
                )
            if gradient is not None and (gradient.shape, gradient.dtype, gradient.device) != (
                tensor.shape,
                tensor.dtype,
                tensor.device,
            ):
                raise AssertionError(
                    f"{gradient.shape} {gradient.dtype} for {tensor.shape} {tensor.dtype}"
                )
        if any(g is not None for g in gradients[len(inputs) :]):
            raise AssertionError("a gradient for an argument that is no tensor")


def check_values_over_subsets(op: Operation, leading: tuple[int, ...] = (5,)) -> None:
    """A gradient does not depend on which others are needed, and is the twin's."""
    inputs = op.inputs(leading=leading)
    _, expected = compare.value_and_gradients(op.twin, inputs)
    for needed in subsets(op):
        gradients = below_the_engine(op, inputs, needed)
        for gradient, reference in zip(gradients, expected, strict=False):
            if gradient is not None:
                compare.agree(gradient, reference)


def check_linear_in_g(op: Operation) -> None:
    """backward(α g + β h) = α backward(g) + β backward(h)."""
    inputs = op.inputs()
    needed = (True,) * len(inputs)
    g = compare.make_cotangent(op.ours(*inputs))
    h = (g * 0.7 + 0.2).flip(0) if g.dim() else g * -1.7
    both = below_the_engine(op, inputs, needed, 2 * g - 3 * h)
    first, second = below_the_engine(op, inputs, needed, g), below_the_engine(op, inputs, needed, h)
    for combined, a, b in zip(both, first, second, strict=True):
        if combined is not None and a is not None and b is not None:
            compare.agree(combined, 2 * a - 3 * b)


def check_strides_of_g(op: Operation) -> None:
    """g of stride 0, transposed and strided gives what the same numbers give in a plain tensor."""
    inputs = op.inputs()
    needed = (True,) * len(inputs)
    value = op.ours(*inputs)
    g = compare.make_cotangent(value)
    layouts = [torch.full((), 0.7, dtype=g.dtype).expand(g.shape)]
    if g.dim() == 2:
        layouts += [
            g.t().contiguous().t(),
            torch.stack([g, g], -1)[..., 0],
            g[:1].expand(g.shape),
            g[:, :1].expand(g.shape),
        ]
    for layout in layouts:
        expected = below_the_engine(
            op, inputs, needed, layout.clone(memory_format=torch.contiguous_format)
        )
        actual = below_the_engine(op, inputs, needed, layout)
        for a, e in zip(actual, expected, strict=True):
            if a is not None and e is not None:
                compare.agree(a, e)


def check_no_aliasing_and_no_mutation(op: Operation, leading: tuple[int, ...] = (5,)) -> None:
    """No gradient shares memory with g, an input, the output or another; none is written to."""
    inputs = tuple(t.requires_grad_() for t in op.inputs(leading=leading))
    value = op.ours(*inputs)
    g = compare.make_cotangent(value)
    node: Any = value.grad_fn
    others: list[Tensor] = [g, *inputs, value, *(t for t in node.saved_tensors if t is not None)]
    before = [t.detach().clone() for t in others]
    versions = [t._version for t in others]
    result = node.apply(g)
    gradients = [t for t in (result if isinstance(result, tuple) else (result,)) if t is not None]
    for t, b, version in zip(others, before, versions, strict=True):
        compare.same(t.detach(), b)
        if t._version != version:
            raise AssertionError("a tensor was written to in place")
    places = [t.untyped_storage().data_ptr() for t in others]
    for i, gradient in enumerate(gradients):
        storage = gradient.untyped_storage().data_ptr()
        if storage in places:
            raise AssertionError(
                f"gradient {i} shares memory with g, an input, the output or another gradient"
            )
        places.append(storage)


@every_operation
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_number_kind_and_none_over_all_subsets(
    op: Operation, dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    check_kind_and_none(op, dtype, leading)


@every_operation
@pytest.mark.parametrize("leading", [n for n in LEADING if 0 not in n], ids=str)
def test_values_over_all_subsets(op: Operation, leading: tuple[int, ...]) -> None:
    check_values_over_subsets(op, leading)


@every_operation
def test_linear_in_g(op: Operation) -> None:
    check_linear_in_g(op)


@every_operation
def test_strides_of_g_do_not_matter(op: Operation) -> None:
    check_strides_of_g(op)


@every_operation
@pytest.mark.parametrize("leading", [n for n in LEADING if 0 not in n], ids=str)
def test_no_aliasing_and_no_mutation(op: Operation, leading: tuple[int, ...]) -> None:
    check_no_aliasing_and_no_mutation(op, leading)


@every_operation
def test_backward_may_run_twice_on_a_retained_graph(op: Operation) -> None:
    inputs = tuple(t.requires_grad_() for t in op.inputs())
    value = op.ours(*inputs)
    g = compare.make_cotangent(value)
    first = torch.autograd.grad(value, inputs, g, retain_graph=True)
    compare.all_of(compare.same, torch.autograd.grad(value, inputs, g), first)


@every_operation
def test_nothing_is_recorded_without_grad(op: Operation) -> None:
    inputs = tuple(t.requires_grad_() for t in op.inputs())
    with torch.no_grad():
        assert op.ours(*inputs).grad_fn is None
    with torch.inference_mode():
        assert op.ours(*inputs).grad_fn is None
    assert op.ours(*op.inputs()).grad_fn is None


@every_operation
def test_changing_a_saved_tensor_in_place_is_noticed(op: Operation) -> None:
    inputs = tuple(t.requires_grad_() for t in op.inputs())
    value = op.ours(*inputs)
    with torch.no_grad():
        (value if op is SIGMOID else inputs[0]).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_a_subclass_may_replace_the_backward_or_the_forward_mode_rule() -> None:
    """Each variant of it has what it replaces and inherits the rest."""

    class Doubled(mbp.SigmoidFunction):
        @staticmethod
        def backward(ctx: Any, da: Tensor) -> Tensor:
            return 2 * mbp.SigmoidFunction.backward(ctx, da)

    class Pushed(mbp.SigmoidFunction):
        @staticmethod
        def jvp(ctx: Any, z_dot: Tensor) -> Tensor:
            return 3 * mbp.SigmoidFunction.tangent_rule(ctx, z_dot)

    (z,) = SIGMOID.inputs()
    for kind, reverse, forward in ((Doubled, 2, 1), (Pushed, 1, 3), (mbp.SigmoidFunction, 1, 1)):
        function = partial(apply, kind)
        slope = z.sigmoid() * (1 - z.sigmoid())
        gradient = compare.value_and_gradients(function, [z], cotangent=torch.ones_like(z))[1][0]
        compare.agree(gradient, reverse * slope)
        compare.agree(torch.func.grad(lambda z, f=function: f(z).sum())(z), reverse * slope)
        compare.agree(torch.func.jvp(function, (z,), (torch.ones_like(z),))[1], forward * slope)


def test_the_functions_take_what_the_functionals_pass() -> None:
    """The Functions are public: applied directly they are the same operations."""
    x, weight, bias = LINEAR.inputs()
    compare.same(mbp.LinearFunction.apply(x, weight, bias), LINEAR.ours(x, weight, bias))
    compare.same(mbp.SigmoidFunction.apply(x), SIGMOID.ours(x))
    compare.same(mbp.MSELossFunction.apply(x, x.sin(), "sum"), MSE["sum"].ours(x, x.sin()))
