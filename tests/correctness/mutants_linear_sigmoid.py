"""Wrong versions of linear and sigmoid in one, and of the network that runs it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from manual_bp import modules
from manual_bp.ops import LinearSigmoidFunction, linear
from manual_bp.ops.linear_sigmoid import LinearSigmoidForwardMode
from tests import test_modules
from tests.correctness import test_memory
from tests.correctness.mutant import GRADCHECK, SECOND, VALUES, Context, Mutant, each, spoil_jvp
from tests.correctness.operations import LINEAR_SIGMOID

F = LinearSigmoidFunction
REAL = LinearSigmoidFunction.backward


def _db_of_da(ctx: Any, da: torch.Tensor) -> tuple[Any, ...]:
    gradients = list(REAL(ctx, da))
    each(2, lambda c, g, d: g.sum(0))(ctx, da, gradients)
    return tuple(gradients)


def _with_a(change: Any) -> Any:
    """LinearSigmoidFunction.backward where the saved a is `change(a)`."""

    def backward(ctx: Any, da: torch.Tensor) -> Any:
        *saved, a = ctx.saved_tensors
        return REAL(Context(ctx, saved_tensors=(*saved, change(a))), da)

    return staticmethod(backward)


def _needs_everything(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, None, output)


MUTANTS = (
    Mutant(
        "linear_sigmoid: the slope missing",
        F,
        "backward",
        staticmethod(lambda ctx, da: linear.gradients(ctx, da, *ctx.saved_tensors[:3])),
        VALUES,
        (LINEAR_SIGMOID, (5,)),
    ),
    Mutant(
        "linear_sigmoid: z saved in place of a",
        F,
        "backward",
        _with_a(torch.logit),
        VALUES,
        (LINEAR_SIGMOID, (5,)),
    ),
    Mutant(
        "linear_sigmoid: a detached",
        F,
        "backward",
        _with_a(torch.detach),
        SECOND,
        (LINEAR_SIGMOID,),
    ),
    Mutant(
        "linear_sigmoid: db of ∂C/∂a in place of δ",
        F,
        "backward",
        staticmethod(_db_of_da),
        VALUES,
        (LINEAR_SIGMOID, (5,)),
    ),
    Mutant(
        "linear_sigmoid: everything saved whatever is frozen",
        F,
        "setup_context",
        staticmethod(_needs_everything),
        test_memory.test_saved_bytes,
        ("linear_sigmoid, W frozen",),
    ),
    Mutant(
        "linear_sigmoid: forward-mode rule without ḃ",
        LinearSigmoidForwardMode,
        "jvp",
        spoil_jvp(LinearSigmoidForwardMode.jvp, lambda real, c, x, w, b: real(c, x, w, None)),
        GRADCHECK,
        (LINEAR_SIGMOID,),
    ),
    Mutant(
        "MLP: hooks not run",
        modules,
        "_is_watched",
        lambda _: False,
        test_modules.test_mlp_runs_every_layer_that_is_watched,
        ("a forward hook",),
    ),
    Mutant(
        "MLP: hooks on every module not run",
        modules,
        "_every_call_is_watched",
        lambda: False,
        test_modules.test_mlp_runs_every_layer_where_every_module_is_watched,
        (register_module_forward_hook,),
    ),
)
