"""Wrong versions of linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp import LinearFunction, linear
from tests import test_modules, test_transforms
from tests.correctness import test_memory
from tests.correctness.mutant import (
    ACCURACY,
    EMPTY,
    F16,
    F64,
    GRADCHECK,
    GRADGRADCHECK,
    KIND,
    LINEAR_IN_G,
    NO_ALIASING,
    SECOND,
    SQUARE,
    STRIDES,
    SUBSETS,
    VALUES,
    Context,
    Mutant,
    detached,
    each,
    examples,
    spoil_rule,
)
from tests.correctness.operations import LINEAR

L = LinearFunction
REAL = LinearFunction.backward


def _linear(change: Callable[[Any, Tensor, list[Any]], None]) -> Any:
    """LinearFunction.backward whose result [dx, dW, db] `change` spoils."""

    def backward(ctx: Any, delta: Tensor) -> tuple[Any, ...]:
        gradients = list(REAL(ctx, delta))
        change(ctx, delta, gradients)
        return tuple(gradients)

    return staticmethod(backward)


def _dx(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:
    return _linear(each(0, change))


def _dW(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:  # noqa: N802 the documents' symbol
    return _linear(each(1, change))


def _db(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:
    return _linear(each(2, change))


def _linear_on(
    change_ctx: Callable[[Any], Any] = lambda ctx: ctx,
    change_g: Callable[[Tensor], Tensor] = lambda g: g,
) -> Any:
    return staticmethod(lambda ctx, delta: REAL(change_ctx(ctx), change_g(delta)))


def _transposed_if_square(matrix: Tensor) -> Tensor:
    return matrix.t() if matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1] else matrix


def _scaled_in_place(g: Tensor) -> Tensor:
    with torch.no_grad():
        g.mul_(1.0)
    return g


def _needs_everything(ctx: Any, inputs: Any, output: Any) -> None:
    x, W, _ = inputs
    ctx.save_for_backward(x, W)


def _give_what_is_not_needed(ctx: Any, g: Tensor, gradients: list[Any]) -> None:
    gradients[:] = [torch.zeros((), dtype=g.dtype) if d is None else d for d in gradients]


MUTANTS = (
    Mutant(
        "linear: z is a view",
        L,
        "forward",
        staticmethod(F.linear),
        test_modules.test_what_a_linear_gives_may_be_written_to,
        ((2, 5), True),
        until="2.15",
    ),
    Mutant(
        "linear: the rows of a jagged tensor counted by its shape",
        linear,
        "rows",
        lambda t: t.reshape(-1, t.shape[-1]),
        test_modules.test_linear_and_sigmoid_train_on_jagged_nested_tensors,
        ((), True),
    ),
    Mutant(
        "linear: dW transposed where W is square",
        L,
        "backward",
        _dW(lambda c, g, d: _transposed_if_square(d)),
        SQUARE,
        ((3,),),
    ),
    Mutant(
        "linear: W transposed in δ W where W is square",
        L,
        "backward",
        _linear_on(
            lambda c: Context(
                c,
                saved_tensors=(c.saved_tensors[0], _transposed_if_square(c.saved_tensors[1])),
            )
        ),
        SQUARE,
        ((3,),),
    ),
    Mutant(
        "linear: db without the sum over the batch",
        L,
        "backward",
        _db(lambda c, g, d: g.reshape(-1, g.shape[-1])[0].clone()),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: db the mean over the batch",
        L,
        "backward",
        _db(lambda c, g, d: d / examples(g)),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: db summed over the first dimension alone in 3-D",
        L,
        "backward",
        _db(lambda c, g, d: g.sum(0)[0] if g.dim() == 3 else d),
        VALUES,
        (LINEAR, (2, 3)),
    ),
    Mutant(
        "linear: db summed over n_out where all sizes are equal",
        L,
        "backward",
        _db(lambda c, g, d: g.sum(-1) if g.dim() == 2 and g.shape[0] == g.shape[1] else d),
        SQUARE,
        ((3,),),
    ),
    Mutant(
        "linear: db of shape (1, n_out)",
        L,
        "backward",
        _db(lambda c, g, d: d[None]),
        KIND,
        (LINEAR, F64, (5,)),
    ),
    Mutant(
        "linear: db in float32 for float16",
        L,
        "backward",
        _db(lambda c, g, d: d.float()),
        KIND,
        (LINEAR, F16, (5,)),
    ),
    Mutant(
        "linear: db is a view of g for one example",
        L,
        "backward",
        _db(lambda c, g, d: g.reshape(d.shape) if g.numel() == d.numel() else d),
        NO_ALIASING,
        (LINEAR, (1,)),
    ),
    Mutant(
        "linear: db not given", L, "backward", _db(lambda c, g, d: None), KIND, (LINEAR, F64, (5,))
    ),
    Mutant(
        "linear: dW is the sum over rows in the wrong order in 3-D",
        L,
        "backward",
        _linear_on(
            lambda c: Context(
                c,
                saved_tensors=(
                    c.saved_tensors[0]
                    if c.saved_tensors[0] is None or c.saved_tensors[0].dim() < 3
                    else c.saved_tensors[0].flip(0),
                    c.saved_tensors[1],
                ),
            )
        ),
        VALUES,
        (LINEAR, (2, 3)),
    ),
    Mutant(
        "linear: dW zero",
        L,
        "backward",
        _dW(lambda c, g, d: torch.zeros_like(d)),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: dW averaged over the batch",
        L,
        "backward",
        _dW(lambda c, g, d: d / examples(g)),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: dW of the wrong shape where the batch is empty",
        L,
        "backward",
        _dW(lambda c, g, d: d if g.numel() else d[:0]),
        EMPTY,
        (LINEAR, (0,)),
    ),
    Mutant(
        "linear: dx with the sign swapped",
        L,
        "backward",
        _dx(lambda c, g, d: -d),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: dx lost when W is frozen",
        L,
        "backward",
        _dx(lambda c, g, d: d if c.needs_input_grad[1] else torch.zeros_like(d)),
        SUBSETS,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: dx without its leading dimensions",
        L,
        "backward",
        _dx(lambda c, g, d: d.reshape(-1, d.shape[-1])),
        KIND,
        (LINEAR, F64, (2, 3)),
    ),
    Mutant(
        "linear: gradients for frozen tensors",
        L,
        "backward",
        _linear(_give_what_is_not_needed),
        KIND,
        (LINEAR, F64, (5,)),
    ),
    Mutant(
        "linear: grad_output ignored",
        L,
        "backward",
        _linear_on(change_g=torch.ones_like),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: grad_output rectified",
        L,
        "backward",
        _linear_on(change_g=torch.relu),
        LINEAR_IN_G,
        (LINEAR,),
    ),
    Mutant(
        "linear: grad_output written in place",
        L,
        "backward",
        _linear_on(change_g=_scaled_in_place),
        NO_ALIASING,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: grad_output read as if contiguous",
        L,
        "backward",
        _linear_on(change_g=lambda g: g if g.is_contiguous() else g.t().reshape(g.shape)),
        STRIDES,
        (LINEAR,),
    ),
    Mutant(
        "linear: saved tensors detached", L, "backward", _linear_on(detached), SECOND, (LINEAR,)
    ),
    Mutant(
        "linear: grad_output detached",
        L,
        "backward",
        _linear_on(change_g=torch.detach),
        GRADGRADCHECK,
        (LINEAR, False),
    ),
    Mutant(
        "linear: products in float32 for float64",
        L,
        "backward",
        _dW(lambda c, g, d: d.float().double() if d.dtype == F64 else d),
        VALUES,
        (LINEAR, (5,)),
    ),
    Mutant(
        "linear: dW summed in float16",
        L,
        "backward",
        _dW(
            lambda c, g, d: sum(
                a[:, None] * b
                for a, b in zip(
                    g.reshape(-1, g.shape[-1]),
                    c.saved_tensors[0].reshape(-1, d.shape[-1]),
                    strict=True,
                )
            )
        ),
        ACCURACY,
        (LINEAR, F16, (64,)),
    ),
    Mutant(
        "linear: everything saved whatever is frozen",
        L,
        "setup_context",
        staticmethod(_needs_everything),
        test_memory.test_saved_bytes,
        ("linear, W and b frozen",),
    ),
    Mutant(
        "linear: forward-mode rule without ḃ",
        L,
        "tangent_rule",
        spoil_rule(L, lambda real, c, x, w, b: real(c, x, w, None)),
        GRADCHECK,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule without x Ẇᵀ",
        L,
        "tangent_rule",
        spoil_rule(L, lambda real, c, x, w, b: real(c, x, torch.zeros_like(w), b)),
        GRADCHECK,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule disagrees with the backward",
        L,
        "tangent_rule",
        spoil_rule(L, lambda real, c, *t: -real(c, *t)),
        test_transforms.test_forward_and_reverse_mode_agree,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule without ẋ Wᵀ",
        L,
        "tangent_rule",
        spoil_rule(L, lambda real, c, x, w, b: real(c, torch.zeros_like(x), w, b)),
        GRADCHECK,
        (LINEAR,),
    ),
)
