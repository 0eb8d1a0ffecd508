"""Wrong versions of what all operations share: function.py and nested_forward.py."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from manual_bp import LinearFunction, function, linear, mse, nested_forward
from tests import test_autocast, test_gradients, test_transforms
from tests.correctness import checks_compile, test_memory
from tests.correctness.mutant import F64, KIND, Mutant
from tests.correctness.operations import LINEAR, MSE, NETWORK, SIGMOID, Operation

L = LinearFunction
AUTOCAST = test_autocast.test_autocast_casts_as_it_casts_the_twin
NESTED = test_transforms.test_nested_derivatives
AROUND_VMAP = test_transforms.test_nested_derivatives_around_vmap
FORWARD_TWICE = test_transforms.NESTS["jacfwd of jacfwd"]


def numbers_of_compiled_func_grad(op: Operation) -> None:
    """The matrix's cell "compile of func.grad", whichever rule computed the numbers."""
    with suppress(checks_compile.BuiltinDerivativeError):
        checks_compile.func_grad(op)


def _save_what_is_needed(ctx: Any, *tensors: Tensor | None, needed: tuple[bool, ...]) -> None:
    _save_two_tuples(ctx, *tensors, needed=needed)
    ctx.save_for_forward(*[t if n else None for t, n in zip(tensors, needed, strict=True)])


def _save_everything(ctx: Any, *tensors: Tensor | None, needed: tuple[bool, ...]) -> None:
    ctx.save_for_forward(*tensors)
    ctx.save_for_backward(*tensors)


def _save_two_tuples(ctx: Any, *tensors: Tensor | None, needed: tuple[bool, ...]) -> None:
    ctx.save_for_forward(*tensors)
    ctx.save_for_backward(*[t if n else None for t, n in zip(tensors, needed, strict=True)])


def _autocast_dtype_of_meta_too(tensor: Tensor) -> torch.dtype | None:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _batch_in_front(primal: Tensor, dim: int, level: int) -> Tensor:
    return ADD_BATCH_DIM(primal, 0, level)


ADD_BATCH_DIM = nested_forward._add_batch_dim
NO_RULE = staticmethod(Function.jvp)

MUTANTS = (
    Mutant(
        "keep: for the forward-mode rule no more than for backward",
        linear,
        "keep",
        _save_what_is_needed,
        test_transforms.check_jvp_subsets,
        (LINEAR,),
        (TypeError,),  # a tensor is None
    ),
    Mutant(
        "keep: everything, whatever is needed",
        linear,
        "keep",
        _save_everything,
        test_memory.test_saved_bytes,
        ("linear, W frozen",),
    ),
    Mutant(
        "keep: two tuples under torch.func",
        linear,
        "keep",
        _save_two_tuples,
        test_transforms.test_vmap_over_the_batched_arguments,
        (LINEAR,),
    ),
    Mutant(
        "keep: while it is compiled, no more than is needed",
        linear,
        "keep",
        _save_two_tuples,
        numbers_of_compiled_func_grad,
        (NETWORK,),
        until="2.15",
    ),
    Mutant(
        "needed: while it is compiled, what autograd says",
        linear,
        "needed",
        lambda ctx: ctx.needs_input_grad,
        numbers_of_compiled_func_grad,
        (NETWORK,),
        until="2.15",
    ),
    Mutant(
        "needed: everything, always",
        mse,
        "needed",
        lambda ctx: (True,) * len(ctx.needs_input_grad),
        KIND,
        (MSE["mean"], F64, (5,)),
    ),
    Mutant(
        "apply: the eager variant under torch.func, as if no transform were active",
        function,
        "_transforms_active",
        lambda: False,
        test_transforms.check_grad_and_vjp,
        (LINEAR,),
    ),
    Mutant(
        "apply: the variant of torch.func in eager mode, which saves all",
        function,
        "_transforms_active",
        lambda: True,
        test_memory.test_saved_bytes,
        ("linear, W frozen",),
    ),
    Mutant(
        "apply: a variant with a jvp while it is compiled",
        function,
        "is_compiling",
        lambda: False,
        checks_compile.forward_and_backward,
        (SIGMOID,),
    ),
    Mutant(
        "the eager variant without its forward-mode rule",
        L.eager,
        "jvp",
        NO_RULE,
        test_transforms.check_jvp_subsets,
        (LINEAR,),
    ),
    Mutant(
        "the variant of torch.func without its forward-mode rule",
        L.transformed,
        "jvp",
        NO_RULE,
        test_transforms.check_jacfwd,
        (LINEAR,),
    ),
    Mutant(
        "no vmap rule for the network",
        function.HandDerivedFunction,
        "generate_vmap_rule",
        False,
        test_transforms.check_per_sample_gradients,
        (NETWORK,),
    ),
    Mutant(
        "autocast not noticed by linear",
        linear,
        "autocast_dtype",
        lambda _: None,
        AUTOCAST,
        (LINEAR, torch.float32, torch.bfloat16, False),
    ),
    Mutant(
        "autocast not noticed by the cost",
        mse,
        "autocast_dtype",
        lambda _: None,
        AUTOCAST,
        (MSE["mean"], torch.float16, torch.float16, False),
    ),
    Mutant(
        "autocast asked for a device that has none",
        linear,
        "autocast_dtype",
        _autocast_dtype_of_meta_too,
        test_gradients.test_meta_tensors_carry_shapes_through_both_passes,
        (LINEAR,),
    ),
    Mutant(
        "forward mode off inside the forward-mode rule",
        nested_forward,
        "_set_fwd_grad_enabled",
        lambda _: nullcontext(),
        NESTED,
        (SIGMOID, FORWARD_TWICE),
    ),
    Mutant(
        "the tangents of saved tensors counted twice",
        nested_forward,
        "_primal",
        lambda t: t,
        NESTED,
        (LINEAR, FORWARD_TWICE),
    ),
    Mutant(
        "saved tensors without the tangents of any level",
        nested_forward,
        "_primal",
        torch.detach,
        NESTED,
        (SIGMOID, FORWARD_TWICE),
    ),
    Mutant(
        "the primal taken of what a vmap wraps",
        nested_forward,
        "peek_interpreter_stack",
        lambda: None,
        AROUND_VMAP,
        (LINEAR, FORWARD_TWICE),
    ),
    Mutant(
        "the batch put back in front",
        nested_forward,
        "_add_batch_dim",
        _batch_in_front,
        test_transforms.test_nested_derivatives_around_vmap_over_the_last_dimension,
        (LINEAR,),
    ),
    Mutant(
        "the private names taken to be missing",
        nested_forward,
        "AVAILABLE",
        False,
        NESTED,
        (SIGMOID, FORWARD_TWICE),
    ),
    Mutant(
        "the forward-mode rule not made differentiable again",
        function,
        "differentiable_again",
        lambda rule: rule,
        NESTED,
        (LINEAR, FORWARD_TWICE),
    ),
)
