"""Wrong versions of the documents' algorithm, and of how a model is read: backprop.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from manual_bp import MLP, Linear, backprop
from manual_bp.backprop import Layer
from tests import test_backprop
from tests.correctness.mutant import F64, Mutant

B = backprop
READ, BACK, FORWARD, SCALE = B.read, B.back, B.forward, B.scale
HAS_HOOKS, CHECK_HOOKS = B._has_hooks, B._check_hooks
VALUES = test_backprop.test_every_tensor_of_every_layer_is_autograds
ORDER = test_backprop.test_a_model_is_read_in_the_order_it_runs
MLP_VALUES = ("MLP", F64, 5, "half_per_example")
Pass = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _refused(word: str) -> tuple[Any, ...]:
    return next(row for row in test_backprop.REFUSED if word in row[2])


def _back(
    delta: Callable[[Tensor, Tensor], Tensor] = lambda error, slope: error * slope,
    dW: Callable[[Tensor, Tensor], Tensor] = lambda delta, a_prev: delta.t() @ a_prev,
    db: Callable[[Tensor], Tensor | None] = lambda delta: delta.sum(0),
    sent: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda delta, W, error: delta @ W,
) -> Callable[..., list[Pass]]:
    """`backprop.back` with one of its formulas changed."""

    def back(
        layers: Sequence[Layer], a_prev: Sequence[Tensor], slope: Sequence[Tensor], error: Tensor
    ) -> list[Pass]:
        found: list[Pass] = []
        for layer, a, own_slope in reversed(list(zip(layers, a_prev, slope, strict=True))):
            d = delta(error, own_slope)
            found.append((error, d, dW(d, a), None if layer.bias is None else db(d)))
            error = sent(d, layer.weight, error)
        return found[::-1]

    return back


def _with(change: Callable[[Tensor], Tensor], which: str) -> Callable[..., list[Pass]]:
    """`backprop.back` of a changed slope or error."""

    def back(
        layers: Sequence[Layer], a_prev: Sequence[Tensor], slope: Sequence[Tensor], error: Tensor
    ) -> list[Pass]:
        if which == "slope":
            return BACK(layers, a_prev, [change(s) for s in slope], error)
        return BACK(layers, a_prev, slope, change(error))

    return back


def _z_for_a(layers: Sequence[Layer], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return ((z, z) for z, _ in FORWARD(layers, x))


def _sigmoid_everywhere(layers: Sequence[Layer], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return FORWARD([replace(layer, sigmoid=True) for layer in layers], x)


class _AnyForward(dict[type[nn.Module], Any]):
    """`_LAYERS` as if every forward were the one the class came with."""

    def __getitem__(self, kind: type[nn.Module]) -> Any:
        return kind.forward


class _Subclasses(_AnyForward):
    """`_LAYERS` with every subclass in it."""

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, type) and issubclass(kind, (nn.Linear, nn.Sigmoid))


def _any_sequential(model: Any) -> list[Layer]:
    with patch.object(B, "_SEQUENTIAL", type(model).forward):
        return READ(model)


def _modules_once(model: nn.Module, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
    return NAMED_MODULES(model)


NAMED_MODULES = nn.Module.named_modules

MUTANTS = (
    Mutant(
        "backprop: the slope missing from δ",
        B,
        "back",
        _back(delta=lambda error, slope: error.clone()),
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: a slope of ½ at the most",
        B,
        "back",
        _with(lambda slope: 2 * slope, "slope"),
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: (y − a) in the place of (a − y)",
        B,
        "back",
        _with(torch.neg, "error"),
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: dW averaged over the batch",
        B,
        "back",
        _back(dW=lambda delta, a_prev: delta.t() @ a_prev / len(delta)),
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: dW transposed where W is square",
        B,
        "back",
        _back(dW=lambda d, a: a.t() @ d if d.shape == a.shape else d.t() @ a),
        VALUES,
        ("shared layers", F64, 5, "mean"),
    ),
    Mutant(
        "backprop: db of one example",
        B,
        "back",
        _back(db=lambda delta: delta[0].clone()),
        VALUES,
        MLP_VALUES,
    ),
    Mutant("backprop: db not given", B, "back", _back(db=lambda delta: None), VALUES, MLP_VALUES),
    Mutant(
        "backprop: W transposed in δ W where it is square",
        B,
        "back",
        _back(sent=lambda delta, W, _: delta @ (W.t() if W.shape[0] == W.shape[1] else W)),
        VALUES,
        ("shared layers", F64, 5, "mean"),
    ),
    Mutant(
        "backprop: the error sent back, not δ",
        B,
        "back",
        _back(sent=lambda _, W, error: error @ W),
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: the error in the target's dtype",
        B,
        "back",
        _with(torch.Tensor.double, "error"),
        test_backprop.test_a_target_of_a_wider_dtype_does_not_widen_the_gradients,
    ),
    Mutant(
        "backprop: s in the place of 2 s",
        B,
        "scale",
        lambda reduction, shape: SCALE(reduction, shape) / 2,
        VALUES,
        MLP_VALUES,
    ),
    Mutant(
        "backprop: n_out for m",
        B,
        "scale",
        lambda reduction, shape: SCALE(reduction, torch.Size(shape[::-1])),
        VALUES,
        MLP_VALUES,
    ),
    Mutant("backprop: z for a", B, "forward", _z_for_a, VALUES, MLP_VALUES),
    Mutant(
        "backprop: a sigmoid on a linear output",
        B,
        "forward",
        _sigmoid_everywhere,
        VALUES,
        ("linear output", F64, 5, "mean"),
    ),
    Mutant(
        "backprop: autograd records it",
        B,
        "backpropagate",
        B.backpropagate.__wrapped__,  # type: ignore[attr-defined]
        test_backprop.test_nothing_is_recorded_and_no_gradient_is_set,
    ),
    Mutant(
        "backprop: a cost that is no number",
        B,
        "COSTS",
        (*B.COSTS, "none"),
        test_backprop.test_a_cost_that_is_no_number_is_refused,
        ("none",),
    ),
    Mutant("read: the Sigmoid forgotten", B, "replace", lambda layer, **_: layer, ORDER, ("MLP",)),
    Mutant(
        "read: a shared layer once",
        nn.Module,
        "named_modules",
        _modules_once,
        ORDER,
        ("shared layers",),
    ),
    Mutant(
        "read: layers counted from 0",
        B,
        "Layer",
        lambda number, *rest, **others: Layer(number - 1, *rest, **others),
        ORDER,
        ("MLP",),
    ),
    Mutant(
        "read: subclasses",
        B,
        "_LAYERS",
        _Subclasses(),
        test_backprop.test_a_model_that_cannot_be_read_gets_one_clear_line,
        _refused("OwnLinear"),
    ),
    Mutant(
        "read: shapes not looked at",
        B,
        "_check_shapes",
        lambda layers: None,
        test_backprop.test_a_model_that_cannot_be_read_gets_one_clear_line,
        _refused("(2, 5): (2, 4) is expected"),
    ),
    Mutant(
        "read: hooks on all modules not seen",
        B,
        "every_module",
        SimpleNamespace(),
        test_backprop.test_a_hook_on_all_modules_is_refused,
        (register_module_forward_hook,),
    ),
    Mutant(
        "read: hooks on a module not seen",
        B,
        "_has_hooks",
        lambda names: False,
        test_backprop.test_a_hook_on_a_module_is_refused_by_name,
        ("forward hook", "0.0"),
    ),
    Mutant(
        "read: backward hooks not seen",
        B,
        "_has_hooks",
        lambda names: HAS_HOOKS({k: v for k, v in names.items() if "forward" in k}),
        test_backprop.test_a_hook_on_a_module_is_refused_by_name,
        ("backward hook", "0.1"),
    ),
    Mutant(
        "read: every table of hooks counts, a state dict's too",
        B,
        "_has_hooks",
        lambda names: any(names[k] for k in names if k.endswith("_hooks")),
        test_backprop.test_hooks_on_a_state_dict_do_no_harm,
    ),
    Mutant(
        "read: hooks on a Sequential not seen",
        B,
        "_check_hooks",
        lambda shown, module: (
            None if isinstance(module, nn.Sequential) else CHECK_HOOKS(shown, module)
        ),
        test_backprop.test_a_hook_on_a_module_is_refused_by_name,
        ("forward pre-hook", "0"),
    ),
    Mutant(
        "read: hooks on a parameter not seen",
        B,
        "_PARAMETER_HOOKS",
        ("_post_accumulate_grad_hooks",),
        test_backprop.test_a_hook_on_a_parameter_is_refused_by_name,
        ("register_hook", "bias"),
    ),
    Mutant(
        "read: hooks after a parameter's gradient not seen",
        B,
        "_PARAMETER_HOOKS",
        ("_backward_hooks",),
        test_backprop.test_a_hook_on_a_parameter_is_refused_by_name,
        ("register_post_accumulate_grad_hook", "weight"),
    ),
    Mutant(
        "read: a forward put on a module not seen",
        B,
        "_check_hooks",
        lambda shown, module: None if "forward" in vars(module) else CHECK_HOOKS(shown, module),
        test_backprop.test_a_forward_put_on_a_module_is_refused_by_name,
        ("0",),
    ),
    Mutant(
        "read: a forward put on a class not seen",
        B,
        "_is_its_own",
        lambda _: True,
        test_backprop.test_a_forward_put_on_a_class_is_refused_by_name,
        (Linear,),
    ),
    Mutant(
        "read: a forward put on the class around them not seen",
        B,
        "read",
        _any_sequential,
        test_backprop.test_a_forward_put_on_the_class_around_them_is_refused_by_name,
        (MLP,),
    ),
)
