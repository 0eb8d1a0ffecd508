"""Columns of the matrix: torch.compile, and torch.compile of torch.func's transforms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jvp, vmap

from tests.correctness import compare
from tests.correctness.operations import OPERATIONS, Operation
from tests.correctness.poison import poisoned

Function = Callable[..., Any]


class BuiltinDerivativeError(Exception):
    """PyTorch differentiated the forward itself; the hand-derived rule did not run."""


def _compiled(function: Function, **options: Any) -> tuple[Function, CompileCounterWithBackend]:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    # A new function object each time: dynamo keeps its recompilations by code object.
    return torch.compile(
        lambda *t: function(*t), backend=counter, fullgraph=True, **options
    ), counter


def _one_graph(counter: CompileCounterWithBackend) -> None:
    if counter.frame_count != 1:
        raise AssertionError(f"{counter.frame_count} graphs instead of one")


def _equal(
    ours: tuple[Tensor, tuple[Tensor, ...]], twin: tuple[Tensor, tuple[Tensor, ...]]
) -> None:
    compare.agree(ours[0], twin[0])
    compare.all_of(compare.agree, ours[1], twin[1])


def forward_and_backward(op: Operation) -> None:
    """fullgraph, one graph, equal to the twin; and the poisoned backward shows."""
    inputs = op.inputs()
    function, counter = _compiled(op.ours)
    _equal(
        compare.value_and_gradients(function, inputs), compare.value_and_gradients(op.twin, inputs)
    )
    _one_graph(counter)
    _our_rule_ran(op.ours, inputs)


def _our_rule_ran(function: Function, inputs: tuple[Tensor, ...]) -> None:
    """The compiled function under the poison equals the eager one under the poison."""
    right = compare.value_and_gradients(function, inputs)[1]
    with poisoned():
        wrong = compare.value_and_gradients(function, inputs)[1]
        compiled = compare.value_and_gradients(_compiled(function)[0], inputs)[1]
    judge(compiled, wrong, right)


def judge(seen: Sequence[Tensor], poisonous: Sequence[Tensor], right: Sequence[Tensor]) -> None:
    """`seen` must be the poisonous derivative; the right one tells that our rule did not run."""
    if _agree(poisonous, right):
        raise AssertionError("the poison changes nothing, so that it cannot show what ran")
    if _agree(seen, poisonous):
        return
    where = "does not show" if _agree(seen, right) else "shows in part"
    raise BuiltinDerivativeError(f"the poisoned derivative {where}")


def _agree(seen: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    try:
        compare.all_of(compare.agree, seen, expected, zero=True)
    except AssertionError:
        return False
    return True


def dynamic_shapes(op: Operation) -> None:
    """One graph for every number of examples."""
    function, counter = _compiled(op.ours, dynamic=True)
    for m in (5, 8, 11):
        inputs = op.inputs(leading=(m,))
        _equal(
            compare.value_and_gradients(function, inputs),
            compare.value_and_gradients(op.twin, inputs),
        )
    _one_graph(counter)


def autocast(op: Operation) -> None:
    """The cast is inside the graph: equal to eager under autocast."""
    inputs = op.inputs(torch.float32)

    def cast(*t: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return op.ours(*t)

    function, counter = _compiled(cast)
    _equal(compare.value_and_gradients(function, inputs), compare.value_and_gradients(cast, inputs))
    _one_graph(counter)


@cache
def _everything() -> Function:
    """Every operation in one function, compiled by the default backend: one graph for the table."""
    torch._dynamo.reset()
    counts = [len(op.shapes) for op in OPERATIONS]

    def everything(*tensors: Tensor) -> list[Tensor]:
        waiting = list(tensors)
        return [
            op.ours(*[waiting.pop(0) for _ in range(n)])
            for op, n in zip(OPERATIONS, counts, strict=True)
        ]

    return torch.compile(everything, fullgraph=True)


def _leaves() -> list[list[Tensor]]:
    return [[t.requires_grad_() for t in op.inputs()] for op in OPERATIONS]


@cache
def _inductor() -> dict[str, tuple[Tensor, tuple[Tensor, ...], Tensor]]:
    """Each operation's value, gradients and cotangent, by generated code for both passes."""
    leaves = _leaves()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        values = _everything()(*[t for inputs in leaves for t in inputs])
    # Each its own factor, or one scalar's cotangent could serve another unseen.
    cotangents = [compare.make_cotangent(v) * (1 + i / 7) for i, v in enumerate(values)]
    torch.autograd.backward(values, cotangents)
    return {
        op.name: (value.detach(), tuple(t.grad for t in inputs if t.grad is not None), g)
        for op, value, inputs, g in zip(OPERATIONS, values, leaves, cotangents, strict=True)
    }


def inductor(op: Operation) -> None:
    """The default backend: generated code for both passes, equal to the twin."""
    value, gradients, cotangent = _inductor()[op.name]
    _equal(
        (value, gradients), compare.value_and_gradients(op.twin, op.inputs(), cotangent=cotangent)
    )


def double_backward(op: Operation) -> None:
    """A gradient of a gradient through a compiled graph, which torch refuses for its own too."""

    def second(value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(value, leaves, compare.make_cotangent(value), create_graph=True)
        penalty = torch.stack([(i + 1) * f.sin().sum() for i, f in enumerate(first)]).sum()
        return torch.autograd.grad(value.sum() + penalty, leaves)

    _inductor()  # its backward pass is compiled by now
    leaves = _leaves()
    row = OPERATIONS.index(op)
    value = _everything()(*[t for inputs in leaves for t in inputs])[row]
    compare.all_of(
        compare.agree, second(value, leaves[row]), second(op.twin(*leaves[row]), leaves[row])
    )


def _transform(op: Operation, transform: Callable[[Function], Function]) -> None:
    """transform(f) compiled equals the twin's in eager, and our own rule made it."""
    inputs = op.inputs()

    def numbers(result: Any) -> list[Tensor]:
        return [t.detach() for t in torch.utils._pytree.tree_leaves(result)]

    right = numbers(transform(op.twin)(*inputs))
    compare.all_of(
        compare.agree, numbers(_compiled(transform(op.ours))[0](*inputs)), right, zero=True
    )
    with poisoned():
        wrong = numbers(transform(op.ours)(*inputs))
        compiled = numbers(_compiled(transform(op.ours))[0](*inputs))
    judge(compiled, wrong, right)


def _scalar(function: Function) -> Function:
    return lambda *t: function(*t).sin().sum()


def _every(op: Operation) -> tuple[int, ...]:
    return tuple(range(len(op.shapes)))


def _in_dims(op: Operation) -> tuple[int | None, ...]:
    return tuple(0 if batched else None for batched in op.batched)


def func_grad(op: Operation) -> None:
    _transform(op, lambda f: grad(_scalar(f), _every(op)))


def func_vmap_grad(op: Operation) -> None:
    _transform(op, lambda f: vmap(grad(_scalar(f), _every(op)), _in_dims(op)))


def func_jvp(op: Operation) -> None:
    _transform(op, lambda f: lambda *t: jvp(f, t, t)[1])


def func_hessian(op: Operation) -> None:
    _transform(op, lambda f: hessian(_scalar(f), _every(op)))


def func_vmap_then_backward(op: Operation) -> None:
    """A compiled vmap, differentiated from outside."""
    inputs = op.inputs()
    function = vmap(op.ours, _in_dims(op))
    _equal(
        compare.value_and_gradients(_compiled(function)[0], inputs),
        compare.value_and_gradients(vmap(op.twin, _in_dims(op)), inputs),
    )
    _our_rule_ran(function, inputs)
