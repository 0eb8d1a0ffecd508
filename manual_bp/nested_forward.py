"""Forward mode within forward mode: jacfwd of jacfwd through a Function.

PyTorch calls `jvp` with forward mode off. The tangents of the outer levels are lost, and the second
derivative is 0 (pytorch#197867). There is no public way round it, so this file takes private names
of torch. Without them everything but nested forward mode works.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

try:
    from torch._C._functorch import (
        TransformType,
        _add_batch_dim,
        _unwrap_batched,
        peek_interpreter_stack,
    )
    from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
    from torch.autograd.forward_ad import _set_fwd_grad_enabled
except ImportError:  # another torch
    AVAILABLE = False
else:
    AVAILABLE = True


def differentiable_again(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make of `rule(ctx, *tangents)` a `jvp` that forward mode can differentiate again."""
    if not AVAILABLE:
        return rule

    @wraps(rule)
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        with _set_fwd_grad_enabled(True):
            return rule(_Primals(ctx), *tangents)

    return jvp


class _Primals:
    """A ctx whose saved tensors lack the tangents of the innermost level.

    Those tangents are the arguments of `jvp`; left on the tensors, they would be counted twice.
    """

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    @property
    def saved_tensors(self) -> list[Tensor | None]:
        return [None if tensor is None else _primal(tensor) for tensor in self._ctx.saved_tensors]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _primal(tensor: Tensor) -> Tensor:
    """`tensor` without its tangent of the innermost forward-mode level."""
    interpreter = peek_interpreter_stack()
    if interpreter is None or interpreter.key() != TransformType.Vmap:
        primal: Tensor = forward_ad.unpack_dual(tensor).primal
        return primal
    # unpack_dual has no batching rule: run it below the vmap level, on what that level wraps.
    unbatched, dim = _unwrap_batched(tensor, interpreter.level())
    with temporarily_pop_interpreter_stack():
        primal = _primal(unbatched)
    return primal if dim is None else _add_batch_dim(primal, dim, interpreter.level())
