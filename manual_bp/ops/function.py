"""What every operation here shares: how it is transformed, what it saves, and which of its two
classes runs.

An operation is two classes.

- The plain one has `forward`, `setup_context` and `backward`. `torch.compile(fullgraph=True)` takes
  it. It saves only what a needed gradient needs.
- Its subclass adds `jvp`, the forward-mode rule, which torch.compile refuses. It saves every
  differentiable input, because forward mode runs on tensors that require no gradient.

`variant` chooses between them, and makes a third of the first, for eager mode, that PyTorch calls
with less overhead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling


class HandDerivedFunction(torch.autograd.Function):
    """A Function whose backward is made only of differentiable operations on saved inputs and
    outputs.

    That restriction is what makes the second derivative right by construction, and lets PyTorch
    write the vmap rule.

    `ctx.needs_input_grad` is right in eager mode only: inside torch.func.grad, torch.compile before
    torch 2.15 knows of intermediate values alone, and a weight beside one would silently get a
    gradient of 0. There everything is saved and every gradient given; what nobody needs, the
    compiler leaves out by itself.
    """

    generate_vmap_rule = True
    forward_mode: ClassVar[type[HandDerivedFunction]]

    @staticmethod
    def save(ctx: Any, *tensors: Tensor | None) -> None:
        """Save one tuple for both modes, as the generated vmap rule requires."""
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def forward_rule(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make `rule(ctx, saved_tensors, *tangents)` a `jvp` that forward mode can differentiate again
    (nested jacfwd).

    A tensor without a tangent has a tangent of zeros here; only an argument that is no tensor has
    None.

    PyTorch calls `jvp` with forward mode off, so the tangents of the levels around it are lost and
    the second derivative is 0. It is turned on again here. The saved tensors' own tangents are the
    arguments of `jvp`; left on the tensors they would be counted twice, so the primals are passed.
    """

    @wraps(rule)
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):
            saved = [t if t is None else _primal(t) for t in ctx.saved_tensors]
            return rule(ctx, saved, *tangents)

    return jvp


def _primal(tensor: Tensor) -> Tensor:
    """`tensor` without its tangent of the innermost forward-mode level."""
    interpreter = peek_interpreter_stack()
    if interpreter is None or interpreter.key() != functorch.TransformType.Vmap:
        primal: Tensor = forward_ad.unpack_dual(tensor).primal
        return primal
    # unpack_dual has no batching rule: it runs below the vmap level, on what that level wraps.
    unbatched, dim = functorch._unwrap_batched(tensor, interpreter.level())
    with temporarily_pop_interpreter_stack():
        primal = _primal(unbatched)
    if dim is not None:
        primal = functorch._add_batch_dim(primal, dim, interpreter.level())
    return primal


def is_plain(tensor: Tensor) -> bool:
    """Whether it is a tensor and no more, and operations run at once: nothing traces, fakes, wraps
    or transforms it.
    """
    return (
        not is_dynamo_compiling()
        and type(tensor) is Tensor
        and peek_interpreter_stack() is None
        and _len_torch_dispatch_stack() == 0
        and not is_legacy_batchedtensor(tensor)  # is_grads_batched=True, gradcheck
    )


@lru_cache(maxsize=64)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor without dimensions, for arithmetic with plain tensors of any device.

    PyTorch makes such a tensor of a Python number at every call, in float64, and converts it: that
    takes a small layer as long as the arithmetic. In float16 and bfloat16 the number is not rounded
    before the arithmetic, a tensor is; and where tensors are transformed, traced or faked, a tensor
    from outside would be foreign.
    """
    with torch.inference_mode(False):  # it outlives the mode it happens to be made in
        return torch.tensor(value, dtype=dtype, device="cpu")


def variant(function: type[HandDerivedFunction]) -> Callable[..., Any]:
    """`apply` of `function`, or of the variant of it that fits: with a forward-mode rule, or in one
    piece.
    """
    if is_dynamo_compiling():
        return function.apply  # type: ignore[no-any-return]
    # _current_level is -1 outside every forward-mode level (dual numbers, jvp, jacfwd).
    if forward_ad._current_level >= 0:
        return function.forward_mode.apply  # type: ignore[no-any-return]
    if peek_interpreter_stack() is not None:  # vmap, grad, vjp
        return function.apply  # type: ignore[no-any-return]
    return _in_one_piece(function, function.backward)


@cache
def _in_one_piece(
    function: type[HandDerivedFunction], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """`apply` of a `function` whose forward and setup_context are joined: for eager mode, where
    every call counts.

    For a setup_context of its own PyTorch reads forward's signature at every call, which takes
    longer than a small layer's matrix product. torch.func needs the two apart; eager mode does not.
    `backward` is the function's own, a key of the cache, so that one put in its place later is
    found.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function.forward(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    namespace = {
        "__module__": function.__module__,
        "__doc__": function.__doc__,
        "forward": staticmethod(forward),
        "setup_context": staticmethod(
            torch.autograd.Function.setup_context
        ),  # to PyTorch: there is none
    }
    joined: Any = type(function.__name__, (function,), namespace)
    # A backward node's own apply first looks up, each time, whether backward or vjp is defined.
    joined._backward_cls.apply = backward
    return joined.apply  # type: ignore[no-any-return]
