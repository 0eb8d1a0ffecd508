"""Wrong versions of the real code, each with the test that must notice.

A mutant replaces one attribute of the code while its killer runs. It is told by what it does wrong, not by a line of
source, so that the code may be rewritten and the mutants stay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from manual_bp import functional
from manual_bp.ops import LinearFunction, MSELossFunction, SigmoidFunction, function
from manual_bp.ops.linear import LinearForwardMode
from manual_bp.ops.mse import MSELossForwardMode
from manual_bp.ops.sigmoid import SigmoidForwardMode
from tests import test_functional
from tests.correctness import test_contract, test_memory, test_second_order, test_tolerances
from tests.correctness.operations import LINEAR, MSE, SIGMOID
from tests.ops import test_gradients, test_transforms

Killer = Callable[[], object]
LINEAR_REAL = LinearFunction.backward
SIGMOID_REAL = SigmoidFunction.backward
MSE_REAL = MSELossFunction.backward


@dataclass(frozen=True)
class Mutant:
    """What is wrong, where, and the test that fails for it."""

    name: str
    owner: Any
    attribute: str
    replacement: Any
    killer: Callable[..., object]
    arguments: tuple[Any, ...] = ()

    @contextmanager
    def applied(self) -> Any:
        """The real code with this fault in it."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(self.owner, self.attribute, self.replacement))
            yield

    def __str__(self) -> str:
        return self.name


class Context:
    """A ctx whose saved tensors, or what else is given, differ from the real one's."""

    def __init__(self, ctx: Any, **changed: Any) -> None:
        self._ctx = ctx
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _linear(change: Callable[[Any, Tensor, list[Any]], None]) -> Any:
    """LinearFunction.backward whose result [dx, dW, db] `change` spoils."""

    def backward(ctx: Any, delta: Tensor) -> tuple[Any, ...]:
        gradients = list(LINEAR_REAL(ctx, delta))
        change(ctx, delta, gradients)
        return tuple(gradients)

    return staticmethod(backward)


def _each(index: int, change: Callable[[Any, Tensor, Tensor], Any]) -> Callable[[Any, Tensor, list[Any]], None]:
    def apply(ctx: Any, g: Tensor, gradients: list[Any]) -> None:
        if gradients[index] is not None:
            gradients[index] = change(ctx, g, gradients[index])

    return apply


def _dx(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:
    return _linear(_each(0, change))


def _dW(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:  # noqa: N802 the documents' symbol
    return _linear(_each(1, change))


def _db(change: Callable[[Any, Tensor, Tensor], Any]) -> Any:
    return _linear(_each(2, change))


def _linear_on(
    change_ctx: Callable[[Any], Any] = lambda ctx: ctx, change_g: Callable[[Tensor], Tensor] = lambda g: g
) -> Any:
    return staticmethod(lambda ctx, delta: LINEAR_REAL(change_ctx(ctx), change_g(delta)))


def _sigmoid(formula: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """SigmoidFunction.backward as `formula(g, a)`."""
    return staticmethod(lambda ctx, g: formula(g, ctx.saved_tensors[0]))


def _mse(change: Callable[[Any, Tensor, list[Any]], None]) -> Any:
    """MSELossFunction.backward whose result [da, dy, None] `change` spoils."""

    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        gradients = list(MSE_REAL(ctx, g))
        change(ctx, g, gradients)
        return tuple(gradients)

    return staticmethod(backward)


def _times(factor: Callable[[Tensor], float]) -> Any:
    """Both gradients of the cost, times a factor computed from a."""

    def change(ctx: Any, _: Tensor, gradients: list[Any]) -> None:
        a = ctx.saved_tensors[0]
        gradients[:2] = [None if d is None else d * factor(a) for d in gradients[:2]]

    return _mse(change)


def _examples(a: Tensor) -> float:
    return a.numel() / a.shape[-1] if a.dim() else 1.0


def _detached(ctx: Any) -> Any:
    return Context(ctx, saved_tensors=tuple(t if t is None else t.detach() for t in ctx.saved_tensors))


def _spoil_jvp(real: Any, change: Callable[..., Any]) -> Any:
    return staticmethod(lambda ctx, *tangents: change(real, ctx, *tangents))


def _transposed_if_square(matrix: Tensor) -> Tensor:
    return matrix.t() if matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1] else matrix


def _scaled_in_place(g: Tensor) -> Tensor:
    with torch.no_grad():
        g.mul_(1.0)
    return g


def _needs_everything(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _give_what_is_not_needed(ctx: Any, g: Tensor, gradients: list[Any]) -> None:
    gradients[:] = [torch.zeros((), dtype=g.dtype) if d is None else d for d in gradients]


def _wrong_batch_dimension(info: Any, in_dims: tuple[Any, ...], z: Tensor) -> Any:
    return SigmoidFunction.apply(z), 0


class _ForwardModeStaysOff:
    """forward_ad as the forward-mode rule sees it, without the switch that turns forward mode on again."""

    def __getattr__(self, name: str) -> Any:
        return (
            (lambda _: nullcontext()) if name == "_set_fwd_grad_enabled" else getattr(torch.autograd.forward_ad, name)
        )


class _VmapIgnoringInDims(SigmoidFunction):
    generate_vmap_rule = False
    vmap = staticmethod(_wrong_batch_dimension)


VALUES = test_gradients.test_value_and_gradients_equal_the_twin
SQUARE = test_gradients.test_linear_with_a_square_weight_and_as_many_examples
EMPTY = test_gradients.test_empty_batches_equal_the_twin
SECOND = test_gradients.test_second_derivatives_equal_the_twin
GRADCHECK = test_gradients.test_gradcheck_with_every_flag
GRADGRADCHECK = test_gradients.test_gradgradcheck
KIND = test_contract.test_number_kind_and_none_over_all_subsets
SUBSETS = test_contract.test_values_over_all_subsets
NO_ALIASING = test_contract.test_no_aliasing_and_no_mutation
LINEAR_IN_G = test_contract.test_linear_in_g
STRIDES = test_contract.test_strides_of_g_do_not_matter
ACCURACY = test_tolerances.test_at_most_twice_the_builtins_error
HALF = MSE["half_per_example"]
F64, F16 = torch.float64, torch.float16
L, S, C = LinearFunction, SigmoidFunction, MSELossFunction

MUTANTS = (
    # linear
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
                saved_tensors=(
                    c.saved_tensors[0],
                    None if c.saved_tensors[1] is None else _transposed_if_square(c.saved_tensors[1]),
                ),
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
        _db(lambda c, g, d: d / _examples(g)),
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
    Mutant("linear: db of shape (1, n_out)", L, "backward", _db(lambda c, g, d: d[None]), KIND, (LINEAR, F64, (5,))),
    Mutant(
        "linear: db in float32 for float16", L, "backward", _db(lambda c, g, d: d.float()), KIND, (LINEAR, F16, (5,))
    ),
    Mutant(
        "linear: db is a view of g for one example",
        L,
        "backward",
        _db(lambda c, g, d: g.reshape(d.shape) if g.numel() == d.numel() else d),
        NO_ALIASING,
        (LINEAR, (1,)),
    ),
    Mutant("linear: db not given", L, "backward", _db(lambda c, g, d: None), KIND, (LINEAR, F64, (5,))),
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
    Mutant("linear: dW zero", L, "backward", _dW(lambda c, g, d: torch.zeros_like(d)), VALUES, (LINEAR, (5,))),
    Mutant(
        "linear: dW averaged over the batch",
        L,
        "backward",
        _dW(lambda c, g, d: d / _examples(g)),
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
    Mutant("linear: dx with the sign swapped", L, "backward", _dx(lambda c, g, d: -d), VALUES, (LINEAR, (5,))),
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
    Mutant("linear: grad_output ignored", L, "backward", _linear_on(change_g=torch.ones_like), VALUES, (LINEAR, (5,))),
    Mutant("linear: grad_output rectified", L, "backward", _linear_on(change_g=torch.relu), LINEAR_IN_G, (LINEAR,)),
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
    Mutant("linear: saved tensors detached", L, "backward", _linear_on(_detached), SECOND, (LINEAR,)),
    Mutant(
        "linear: grad_output detached", L, "backward", _linear_on(change_g=torch.detach), GRADGRADCHECK, (LINEAR, False)
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
                for a, b in zip(g.reshape(-1, g.shape[-1]), c.saved_tensors[0].reshape(-1, d.shape[-1]), strict=True)
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
        LinearForwardMode,
        "jvp",
        _spoil_jvp(LinearForwardMode.jvp, lambda real, c, x, w, b: real(c, x, w, None)),
        GRADCHECK,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule without x Ẇᵀ",
        LinearForwardMode,
        "jvp",
        _spoil_jvp(LinearForwardMode.jvp, lambda real, c, x, w, b: real(c, x, torch.zeros_like(w), b)),
        GRADCHECK,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule disagrees with the backward",
        LinearForwardMode,
        "jvp",
        _spoil_jvp(LinearForwardMode.jvp, lambda real, c, *t: -real(c, *t)),
        test_transforms.test_forward_and_reverse_mode_agree,
        (LINEAR,),
    ),
    Mutant(
        "linear: forward-mode rule without ẋ Wᵀ",
        LinearForwardMode,
        "jvp",
        _spoil_jvp(LinearForwardMode.jvp, lambda real, c, x, w, b: real(c, torch.zeros_like(x), w, b)),
        GRADCHECK,
        (LINEAR,),
    ),
    # sigmoid
    Mutant(
        "sigmoid: σ(z)(1 − σ(z)) taken at a",
        S,
        "backward",
        _sigmoid(lambda g, a: g * (a.sigmoid() * (1 - a.sigmoid()))),
        VALUES,
        (SIGMOID, (5,)),
    ),
    Mutant("sigmoid: the slope missing", S, "backward", _sigmoid(lambda g, a: g * 1), VALUES, (SIGMOID, (5,))),
    Mutant("sigmoid: a (1 + a)", S, "backward", _sigmoid(lambda g, a: g * (a * (1 + a))), VALUES, (SIGMOID, (5,))),
    Mutant(
        "sigmoid: the slope of tanh", S, "backward", _sigmoid(lambda g, a: g * (1 - a * a)), VALUES, (SIGMOID, (5,))
    ),
    Mutant(
        "sigmoid: the sign swapped", S, "backward", _sigmoid(lambda g, a: -g * (a * (1 - a))), VALUES, (SIGMOID, (5,))
    ),
    Mutant("sigmoid: grad_output ignored", S, "backward", _sigmoid(lambda g, a: a * (1 - a)), VALUES, (SIGMOID, (5,))),
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
        "sigmoid: forward-mode rule with a twice the slope",
        SigmoidForwardMode,
        "jvp",
        _spoil_jvp(SigmoidForwardMode.jvp, lambda real, c, z: 2 * real(c, z)),
        GRADCHECK,
        (SIGMOID,),
    ),
    Mutant(
        "sigmoid: vmap rule that takes the batch to be dimension 0",
        functional,
        "SigmoidFunction",
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
    # cost
    Mutant("mse: 1/m dropped", C, "backward", _times(_examples), VALUES, (HALF, (5,))),
    Mutant(
        "mse: 1/m taken from the first dimension alone",
        C,
        "backward",
        _times(lambda a: _examples(a) / a.shape[0] if a.dim() > 1 else 1),
        VALUES,
        (HALF, (2, 3)),
    ),
    Mutant(
        "mse: 1/n_out in the place of 1/m",
        C,
        "backward",
        _times(lambda a: _examples(a) / a.shape[-1]),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant("mse: 2 for ½", C, "backward", _times(lambda a: 2), VALUES, (HALF, (5,))),
    Mutant("mse: the 2 of the square dropped", C, "backward", _times(lambda a: 0.5), VALUES, (MSE["none"], (5,))),
    Mutant("mse: (y − a) in the place of (a − y)", C, "backward", _times(lambda a: -1), VALUES, (MSE["mean"], (5,))),
    Mutant(
        "mse: the sign of the target's gradient swapped",
        C,
        "backward",
        _mse(_each(1, lambda c, g, d: -d)),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant(
        "mse: the target's gradient not given",
        C,
        "backward",
        _mse(_each(1, lambda c, g, d: None)),
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
        staticmethod(lambda ctx, g: MSE_REAL(ctx, torch.ones_like(g))),
        VALUES,
        (HALF, (5,)),
    ),
    Mutant(
        "mse: grad_output turned into a number",
        C,
        "backward",
        staticmethod(lambda ctx, g: MSE_REAL(ctx, g.detach())),
        GRADGRADCHECK,
        (HALF, False),
    ),
    Mutant(
        "mse: a and y detached",
        C,
        "backward",
        staticmethod(
            lambda ctx, g: MSE_REAL(
                Context(_detached(ctx), needs_input_grad=ctx.needs_input_grad, reduction=ctx.reduction), g
            )
        ),
        test_second_order.test_hessian_of_the_cost,
        (HALF,),
    ),
    Mutant(
        "mse: forward-mode rule without ẏ",
        MSELossForwardMode,
        "jvp",
        _spoil_jvp(MSELossForwardMode.jvp, lambda real, c, a, y, r: real(c, a, torch.zeros_like(y), r)),
        GRADCHECK,
        (HALF,),
    ),
    Mutant(
        "mse: forward-mode rule without the sum",
        MSELossForwardMode,
        "jvp",
        _spoil_jvp(MSELossForwardMode.jvp, lambda real, c, a, y, r: real(c, a, y, r) / 2),
        GRADCHECK,
        (MSE["sum"],),
    ),
    # what the operations share, and the functional layer
    Mutant(
        "forward mode off inside the forward-mode rule",
        function,
        "forward_ad",
        _ForwardModeStaysOff(),
        test_transforms.test_nested_derivatives,
        (SIGMOID, test_transforms.NESTS["jacfwd of jacfwd"]),
    ),
    Mutant(
        "the tangents of saved tensors counted twice",
        function,
        "_primal",
        lambda t: t,
        test_transforms.test_nested_derivatives,
        (LINEAR, test_transforms.NESTS["jacfwd of jacfwd"]),
    ),
    Mutant(
        "autocast not noticed",
        functional,
        "_autocast_enabled",
        lambda _: False,
        test_functional.test_autocast_casts_as_it_casts_the_twin,
        (LINEAR, torch.float32, torch.bfloat16, False),
    ),
    Mutant(
        "targets broadcast",
        functional,
        "_check_mse_loss",
        lambda *_: None,
        test_functional.test_bad_input_gets_one_clear_line,
        next(r for r in test_functional.REFUSED if "broadcast" in r[2]),
    ),
)
