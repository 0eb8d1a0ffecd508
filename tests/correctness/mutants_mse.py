"""Wrong versions of the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp import MSELossFunction, mse
from manual_bp.normalisation import scale
from tests import test_functional, test_transforms
from tests.correctness import test_second_order, test_tolerances
from tests.correctness.mutant import (
    F64,
    GRADCHECK,
    GRADGRADCHECK,
    KIND,
    NO_ALIASING,
    VALUES,
    Context,
    Mutant,
    detached,
    each,
    examples,
    spoil_rule,
)
from tests.correctness.operations import MSE, twin_mse

C = MSELossFunction
HALF = MSE["half_per_example"]
REAL = MSELossFunction.backward


def _mse(change: Callable[[Any, Tensor, list[Any]], None]) -> Any:
    """MSELossFunction.backward whose result [da, dy, None] `change` spoils."""

    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        gradients = list(REAL(ctx, g))
        change(ctx, g, gradients)
        return tuple(gradients)

    return staticmethod(backward)


def _times(factor: Callable[[Tensor], float]) -> Any:
    """Both gradients of the cost, times a factor computed from a."""

    def change(ctx: Any, _: Tensor, gradients: list[Any]) -> None:
        a = ctx.saved_tensors[0]
        gradients[:2] = [None if d is None else d * factor(a) for d in gradients[:2]]

    return _mse(change)


def _scale_rounded_first(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    a, y = ctx.saved_tensors
    gradient = (a - y) * torch.full_like(a, 2 * scale(ctx.reduction, a.shape)) * g
    return gradient, -gradient, None


MUTANTS = (
    Mutant(
        "mse: targets broadcast",
        mse,
        "_check",
        lambda *_: None,
        test_functional.test_bad_input_gets_one_clear_line,
        next(row for row in test_functional.REFUSED if "broadcast" in row[2]),
    ),
    Mutant(
        "mse: forward by torch's own, which nested vmap does not take",
        C,
        "forward",
        staticmethod(twin_mse),
        test_transforms.check_vmap_nested_with_one_unmapped,
        (HALF,),
    ),
    Mutant("mse: 1/m dropped", C, "backward", _times(examples), VALUES, (HALF, (5,))),
    Mutant(
        "mse: 1/m taken from the first dimension alone",
        C,
        "backward",
        _times(lambda a: examples(a) / a.shape[0] if a.dim() > 1 else 1),
        VALUES,
        (HALF, (2, 3)),
    ),
    Mutant(
        "mse: 1/n_out in the place of 1/m",
        C,
        "backward",
        _times(lambda a: examples(a) / a.shape[-1]),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant("mse: 2 for ½", C, "backward", _times(lambda a: 2), VALUES, (HALF, (5,))),
    Mutant(
        "mse: the 2 of the square dropped",
        C,
        "backward",
        _times(lambda a: 0.5),
        VALUES,
        (MSE["none"], (5,)),
    ),
    Mutant(
        "mse: (y − a) in the place of (a − y)",
        C,
        "backward",
        _times(lambda a: -1),
        VALUES,
        (MSE["mean"], (5,)),
    ),
    Mutant(
        "mse: the sign of the target's gradient swapped",
        C,
        "backward",
        _mse(each(1, lambda c, g, d: -d)),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant(
        "mse: the target's gradient not given",
        C,
        "backward",
        _mse(each(1, lambda c, g, d: None)),
        KIND,
        (HALF, F64, (5,)),
    ),
    Mutant(
        "mse: a gradient for a target that needs none",
        C,
        "backward",
        _mse(lambda c, g, d: d.__setitem__(1, d[0] if d[1] is None and d[0] is not None else d[1])),
        KIND,
        (HALF, F64, (5,)),
    ),
    Mutant(
        "mse: both gradients in one storage",
        C,
        "backward",
        _mse(lambda c, g, d: d.__setitem__(1, d[0].view_as(d[0])) if None not in d[:2] else None),
        NO_ALIASING,
        (HALF, (5,)),
    ),
    Mutant(
        "mse: grad_output ignored",
        C,
        "backward",
        staticmethod(lambda ctx, g: REAL(ctx, torch.ones_like(g))),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant(
        "mse: grad_output turned into a number",
        C,
        "backward",
        staticmethod(lambda ctx, g: REAL(ctx, g.detach())),
        GRADGRADCHECK,
        (HALF, False),
    ),
    Mutant(
        "mse: a and y detached",
        C,
        "backward",
        staticmethod(
            lambda ctx, g: REAL(
                Context(
                    detached(ctx), needs_input_grad=ctx.needs_input_grad, reduction=ctx.reduction
                ),
                g,
            )
        ),
        test_second_order.test_hessian_of_the_cost,
        (HALF,),
    ),
    Mutant(
        "mse: forward-mode rule without ẏ",
        C,
        "tangent_rule",
        spoil_rule(C, lambda real, c, a, y, r: real(c, a, torch.zeros_like(y), r)),
        GRADCHECK,
        (HALF,),
    ),
    Mutant(
        "mse: forward-mode rule without the sum",
        C,
        "tangent_rule",
        spoil_rule(C, lambda real, c, a, y, r: real(c, a, y, r) / 2),
        GRADCHECK,
        (MSE["sum"],),
    ),
    Mutant(
        "mse: 2 s rounded to the dtype before grad_output",
        C,
        "backward",
        staticmethod(_scale_rounded_first),
        test_tolerances.test_a_scaled_float16_gradient_of_a_million_elements_does_not_underflow,
    ),
)
