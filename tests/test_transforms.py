"""torch.func over each operation: all in_dims, all subsets of tangents, transforms nested."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from tests.correctness import compare
from tests.correctness.operations import (
    LINEAR,
    LINEAR_NO_BIAS,
    MSE,
    OPERATIONS,
    SIGMOID,
    Operation,
)

every_operation = pytest.mark.parametrize("op", OPERATIONS, ids=str)
# torch's own mse_loss says so when a reverse or forward mode runs through vmap; ours does not.
quiet_twin = pytest.mark.filterwarnings(
    "ignore:An output with one or more elements was resized:UserWarning"
)
SMALL = (LINEAR, LINEAR_NO_BIAS, SIGMOID, MSE["half_per_example"], MSE["none"])
BATCH = 2


def numbers(result: Any) -> list[Tensor]:
    return [t.detach() for t in torch.utils._pytree.tree_leaves(result)]


def both(
    op: Operation, transform: Callable[[Callable[..., Tensor]], Any], *, zero: bool = False
) -> None:
    """`transform` of ours equals `transform` of the twin."""
    compare.all_of(
        compare.agree, numbers(transform(op.ours)), numbers(transform(op.twin)), zero=zero
    )


def scalar(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Σ sin(f) ⊙ cotangent: a scalar whose derivatives do not vanish."""

    def summed(*inputs: Tensor) -> Tensor:
        value = function(*inputs)
        return (value.sin() * compare.make_cotangent(value)).sum()

    return summed


def every_argument(op: Operation) -> tuple[int, ...]:
    return tuple(range(len(op.shapes)))


def check_vmap(op: Operation, in_dims: tuple[int | None, ...]) -> None:
    """vmap, vmap of grad, grad of vmap, and jvp of vmap, with a batch at `in_dims`."""
    inputs = []
    for i, (tensor, dim) in enumerate(zip(op.inputs(), in_dims, strict=True)):
        if dim is None:
            inputs.append(tensor)
        else:
            inputs.append(torch.stack([tensor, (tensor + i).cos()], dim=dim))
    every = every_argument(op)
    both(op, lambda f: vmap(f, in_dims)(*inputs))
    both(op, lambda f: vmap(f, in_dims, out_dims=-1)(*inputs))
    both(op, lambda f: vmap(grad(scalar(f), every), in_dims)(*inputs))
    both(op, lambda f: grad(scalar(vmap(f, in_dims)), every)(*inputs))
    both(op, lambda f: jvp(vmap(f, in_dims), tuple(inputs), tuple(t.sin() for t in inputs)))
    both(op, lambda f: vmap(lambda *t: jvp(f, t, tuple(u.sin() for u in t)), in_dims)(*inputs))


def check_grad_and_vjp(op: Operation) -> None:
    inputs = op.inputs()
    both(op, lambda f: grad(scalar(f), every_argument(op))(*inputs))
    both(op, lambda f: vjp(f, *inputs)[1](compare.make_cotangent(op.twin(*inputs))))


def check_jacrev(op: Operation) -> None:
    both(op, lambda f: jacrev(f, every_argument(op))(*op.inputs()))


def check_jacfwd(op: Operation) -> None:
    both(op, lambda f: jacfwd(f, every_argument(op))(*op.inputs()))


def check_per_sample_gradients(op: Operation) -> None:
    """vmap of grad over the examples equals a loop over them with the twin."""
    inputs = op.inputs()
    in_dims = tuple(0 if batched else None for batched in op.batched)
    per_sample = vmap(grad(scalar(op.ours), every_argument(op)), in_dims)(*inputs)
    for i in range(inputs[0].shape[0]):
        one = [t[i] if batched else t for t, batched in zip(inputs, op.batched, strict=True)]
        alone = grad(scalar(op.twin), every_argument(op))(*one)
        compare.all_of(compare.agree, [p[i] for p in per_sample], alone)


@every_operation
@pytest.mark.parametrize(
    "check",
    [check_grad_and_vjp, check_jacrev, check_jacfwd, check_per_sample_gradients],
    ids=["grad and vjp", "jacrev", "jacfwd", "per-sample gradients"],
)
def test_transform(op: Operation, check: Callable[[Operation], None]) -> None:
    check(op)


def in_dims_of(op: Operation) -> list[tuple[int | None, ...]]:
    choices = [(None, 0, 1) if len(shape) > 1 else (None, 0) for shape in op.shapes]
    return [dims for dims in product(*choices) if any(d is not None for d in dims)]


@quiet_twin
@pytest.mark.parametrize(
    ("op", "in_dims"),
    [pytest.param(op, dims, id=f"{op}-{dims}") for op in SMALL for dims in in_dims_of(op)],
)
def test_vmap_over_every_choice_of_in_dims(op: Operation, in_dims: tuple[int | None, ...]) -> None:
    check_vmap(op, in_dims)


@every_operation
def test_vmap_over_the_batched_arguments(op: Operation) -> None:
    check_vmap(op, tuple(0 if batched else None for batched in op.batched))


@every_operation
def test_vmap_nested(op: Operation) -> None:
    inputs = [
        torch.stack([torch.stack([t, t.sin()]), torch.stack([t.cos(), -t])]) for t in op.inputs()
    ]
    both(op, lambda f: vmap(vmap(f))(*inputs))
    both(op, lambda f: vmap(vmap(grad(scalar(f), every_argument(op))), in_dims=1)(*inputs))


def check_vmap_nested_with_one_unmapped(op: Operation) -> None:
    """Two vmaps, one argument without the batch of the outer, the inner, or both.

    A loop with the twin is the oracle, because torch's own mse_loss fails here. A factor has both
    batches, so that an operation of one argument has one as well.
    """
    factor = torch.tensor([[0.7, -1.3], [2.1, 0.4]], dtype=torch.float64)
    every = every_argument(op)

    def results(function: Callable[..., Tensor]) -> Callable[..., Any]:
        def scaled(f: Tensor, *t: Tensor) -> Any:
            pushed = jvp(function, t, tuple(u.sin() for u in t))[1]
            return (
                f * function(*t),
                grad(lambda *t: f * scalar(function)(*t), every)(*t),
                f * pushed,
            )

        return scaled

    for i, unmapped in product(every, [(True, False), (False, True), (True, True)]):
        inputs, levels = [], ([0], [0])
        for j, tensor in enumerate(op.inputs()):
            outer, inner = (not (i == j and u) for u in unmapped)
            tensor = torch.stack([tensor, tensor.sin()]) if inner else tensor
            inputs.append(torch.stack([tensor, (tensor + 1).cos()]) if outer else tensor)
            for level, mapped in zip(levels, (outer, inner), strict=True):
                level.append(0 if mapped else None)
        outer_dims, inner_dims = map(tuple, levels)
        nested = vmap(vmap(results(op.ours), inner_dims), outer_dims)(factor, *inputs)
        for a, b in product(range(2), repeat=2):
            rows = [t if d is None else t[a] for t, d in zip(inputs, outer_dims[1:], strict=True)]
            cell = [t if d is None else t[b] for t, d in zip(rows, inner_dims[1:], strict=True)]
            expected = numbers(results(op.twin)(factor[a, b], *cell))
            compare.all_of(compare.agree, [n[a, b] for n in numbers(nested)], expected)


@every_operation
def test_vmap_nested_with_one_argument_unmapped(op: Operation) -> None:
    check_vmap_nested_with_one_unmapped(op)


def check_jvp_subsets(op: Operation) -> None:
    """The forward-mode rule with every subset of tangents present; the others are None, not 0."""
    inputs = op.inputs()
    tangents = [(t + 1).sin() for t in inputs]
    for chosen in product([False, True], repeat=len(inputs)):
        results = []
        for function in (op.ours, op.twin):
            with forward_ad.dual_level():
                arguments = [
                    forward_ad.make_dual(t, d) if c else t
                    for t, d, c in zip(inputs, tangents, chosen, strict=True)
                ]
                results.append(forward_ad.unpack_dual(function(*arguments)))
        ours, twin = results
        compare.agree(ours.primal, twin.primal)
        if twin.tangent is None or ours.tangent is None:
            if ours.tangent is not twin.tangent or any(chosen):
                raise AssertionError(
                    f"tangents {chosen}: ours {ours.tangent}, torch {twin.tangent}"
                )
        else:
            compare.agree(ours.tangent, twin.tangent)


@every_operation
def test_jvp_with_every_subset_of_tangents(op: Operation) -> None:
    check_jvp_subsets(op)


@every_operation
def test_forward_and_reverse_mode_agree(op: Operation) -> None:
    """⟨g, J v⟩ = ⟨Jᵀ g, v⟩, both by our own rules."""
    inputs = op.inputs()
    v = tuple((t + 1).sin() for t in inputs)
    value, pushed = jvp(op.ours, inputs, v)
    g = compare.make_cotangent(value)
    pulled = vjp(op.ours, *inputs)[1](g)
    compare.agree(
        (g * pushed).sum(),
        torch.stack([(p * t).sum() for p, t in zip(pulled, v, strict=True)]).sum(),
    )


NESTS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Any]]] = {
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacfwd of jacrev": lambda f: jacfwd(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "hessian": hessian,
    "jacfwd three times": lambda f: jacfwd(jacfwd(jacfwd(f))),
    "jacrev of jacfwd of jacrev": lambda f: jacrev(jacfwd(jacrev(f))),
}


def check_nest(op: Operation, nest: Callable[[Callable[..., Tensor]], Callable[..., Any]]) -> None:
    """A nested transform over all arguments at once, each a function of one t."""
    inputs = op.inputs(leading=(2,))

    def along(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda t: function(*[(x * t[i % 2] + t.prod()).sin() for i, x in enumerate(inputs)])

    t = torch.tensor([0.4, -0.9], dtype=torch.float64)
    both(op, lambda f: nest(along(f))(t))


@every_operation
@pytest.mark.parametrize("nest", NESTS.values(), ids=list(NESTS))
def test_nested_derivatives(
    op: Operation, nest: Callable[[Callable[..., Tensor]], Callable[..., Any]]
) -> None:
    check_nest(op, nest)


def check_nest_around_vmap(
    op: Operation, nest: Callable[[Callable[..., Tensor]], Callable[..., Any]]
) -> None:
    """The same with a vmap between the derivatives and the operation."""
    inputs = op.inputs(leading=(2,))
    in_dims = tuple(0 if batched else None for batched in op.batched)

    def along(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda t: vmap(function, in_dims)(
            *[(x * t[i % 2] + t.prod()).sin() for i, x in enumerate(inputs)]
        )

    t = torch.tensor([0.4, -0.9], dtype=torch.float64)
    both(op, lambda f: nest(along(f))(t))


@every_operation
@pytest.mark.parametrize("nest", NESTS.values(), ids=list(NESTS))
def test_nested_derivatives_around_vmap(
    op: Operation, nest: Callable[[Callable[..., Tensor]], Callable[..., Any]]
) -> None:
    check_nest_around_vmap(op, nest)


@every_operation
def test_nested_derivatives_around_vmap_over_the_last_dimension(op: Operation) -> None:
    inputs = op.inputs(leading=(2,))
    nest = NESTS["jacfwd of jacfwd"]

    def along(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def at(t: Tensor) -> Tensor:
            moved = [(x * t[i % 2] + t.prod()).sin() for i, x in enumerate(inputs)]
            return vmap(function, -1)(*[torch.stack([m, m.cos()], -1) for m in moved])

        return at

    t = torch.tensor([0.4, -0.9], dtype=torch.float64)
    both(op, lambda f: nest(along(f))(t))


def check_reverse_through_a_dual(op: Operation) -> None:
    """Forward over reverse by hand: the tangent of a gradient, and a gradient of a tangent."""
    inputs = op.inputs()
    v = tuple((t + 1).sin() for t in inputs)
    every = every_argument(op)
    both(op, lambda f: jvp(grad(scalar(f), every), inputs, v))
    both(
        op, lambda f: grad(lambda *t: torch.stack(jvp(f, t, v)).prod(0).sin().sum(), every)(*inputs)
    )


@every_operation
def test_reverse_through_a_dual(op: Operation) -> None:
    check_reverse_through_a_dual(op)
