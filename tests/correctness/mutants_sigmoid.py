"""Wrong versions of the sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp import SigmoidFunction
from tests import test_functional, test_transforms
from tests.correctness import test_second_order
from tests.correctness.mutant import (
    ACCURACY,
    F64,
    GRADCHECK,
    GRADGRADCHECK,
    NO_ALIASING,
    VALUES,
    Mutant,
    spoil_rule,
)
from tests.correctness.operations import SIGMOID

S = SigmoidFunction


def _sigmoid(formula: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """SigmoidFunction.backward as `formula(g, a)`."""
    return staticmethod(lambda ctx, g: formula(g, ctx.saved_tensors[0]))


class _VmapIgnoringInDims(S.transformed):  # type: ignore[misc, name-defined]
    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], z: Tensor) -> Any:
        return S.apply(z), 0


MUTANTS = (
    Mutant(
        "sigmoid: σ(z)(1 − σ(z)) taken at a",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a.sigmoid() * (1 - a.sigmoid()))),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: the slope missing",
        S,
        "backward",
        _sigmoid(lambda g, a: g * 1),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: a (1 + a)",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a * (1 + a))),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: the slope of tanh",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (1 - a * a)),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: the sign swapped",
        S,
        "backward",
        _sigmoid(lambda g, a: -g * (a * (1 - a))),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: grad_output ignored",
        S,
        "backward",
        _sigmoid(lambda g, a: a * (1 - a)),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: a detached",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a.detach() * (1 - a.detach()))),
        test_second_order.test_second_derivative_of_the_sigmoid,
        (),
    ),
    Mutant(
        "sigmoid: half of the slope detached",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a * (1 - a.detach()))),
        GRADGRADCHECK,
        (SIGMOID, False),
    ),
    Mutant(
        "sigmoid: grad_output written in place",
        S,
        "backward",
        _sigmoid(lambda g, a: g.mul_(a * (1 - a))),
        NO_ALIASING,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: the saved a written in place",
        S,
        "backward",
        _sigmoid(lambda g, a: g * a.detach().mul_(1 - a.detach())),
        NO_ALIASING,
        (SIGMOID, (5,)),
    ),
    Mutant(
        "sigmoid: the slope never below 1e-3",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a * (1 - a)).clamp(min=1e-3)),
        test_functional.test_sigmoid_at_the_extremes,
        (F64,),
    ),
    Mutant(
        "sigmoid: a − a², which cancels near 1",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a - a * a)),
        test_functional.test_sigmoid_at_the_extremes,
        (torch.float32,),
    ),
    Mutant(
        "sigmoid: the slope rounded to bfloat16",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a * (1 - a)).bfloat16().to(a.dtype)),
        ACCURACY,
        (SIGMOID, torch.float32, (64,)),
    ),
    Mutant(
        "sigmoid: forward-mode rule with twice the slope",
        S,
        "tangent_rule",
        spoil_rule(S, lambda real, c, z: 2 * real(c, z)),
        GRADCHECK,
        (SIGMOID,),
    ),
    Mutant(
        "sigmoid: vmap rule that takes the batch to be dimension 0",
        S,
        "transformed",
        _VmapIgnoringInDims,
        test_transforms.test_vmap_over_every_choice_of_in_dims,
        (SIGMOID, (1,)),
    ),
    Mutant(
        "sigmoid: no vmap rule",
        S,
        "generate_vmap_rule",
        False,
        test_transforms.test_vmap_over_the_batched_arguments,
        (SIGMOID,),
    ),
)
