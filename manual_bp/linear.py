"""Linear: z = a_prev Wᵀ + b.

    ∂C/∂a_prev = δ W        (m, n_in)
    ∂C/∂W      = δᵀ a_prev  (n_out, n_in)
    ∂C/∂b      = Σ_m δ      (n_out,)

with δ = ∂C/∂z of shape (m, n_out). Document 1: (δ^(l+1))ᵀ a^(l), and δ^(l+1) Θ^(l) goes back one
layer. Document 2: Δw = −η δ z. Document 3: ∇W = δ (a^(l-1))ᵀ, ∇b = δ for one example; a batch sums
over its examples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manual_bp.function import (
    HandDerivedFunction,
    apply,
    autocast_dtype,
    dtype_name,
    keep,
    needed,
    not_floating,
    not_tensors,
    on_several_devices,
)


class LinearFunction(HandDerivedFunction):
    """z = x Wᵀ + b, with ∂C/∂x = δ W, ∂C/∂W = δᵀ x, ∂C/∂b = Σ_m δ (documents 1, 2 and 3).

    Shapes: x (..., n_in), W (n_out, n_in), b (n_out,) or None; z and δ (..., n_out).

        >>> LinearFunction.apply(torch.ones(5, 3), torch.ones(2, 3), None).shape
        torch.Size([5, 2])
    """

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        z = F.linear(x, W, b)  # z = x Wᵀ + b  (..., n_out)
        # With a bias z is a view unless it has two dimensions, and nn.ReLU(inplace=True) after this
        # Function could not write into a view.
        return z if b is None or z.dim() == 2 else z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], z: Tensor) -> None:
        x, W, _ = inputs
        needs_dx, needs_dW, _ = ctx.needs_input_grad
        keep(ctx, x, W, needed=(needs_dW, needs_dx))  # ∂C/∂W needs x alone, ∂C/∂x needs W alone

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, W = ctx.saved_tensors
        needs_dx, needs_dW, needs_db = needed(ctx)
        dx = delta @ W if needs_dx else None  # ∂C/∂x = δ W  (..., n_in)
        dW = rows(delta).t() @ rows(x) if needs_dW else None  # ∂C/∂W = δᵀ x  (n_out, n_in)
        db = rows(delta).sum(0) if needs_db else None  # ∂C/∂b = Σ_m δ  (n_out,)
        return dx, dW, db

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor, W_dot: Tensor, b_dot: Tensor | None) -> Tensor:
        x, W = ctx.saved_tensors
        z_dot = F.linear(x_dot, W) + F.linear(x, W_dot)  # ẋ Wᵀ + x Ẇᵀ  (..., n_out)
        return z_dot if b_dot is None else z_dot + b_dot  # + ḃ  (..., n_out)


def rows(tensor: Tensor) -> Tensor:
    """(..., n) as (m, n). The count is spelled out: reshape(-1, n) cannot infer it if n is 0."""
    if tensor.dim() == 2:
        return tensor
    if tensor.is_nested:  # (examples, ragged, ..., n): all rows of all examples, one below another
        tensor = tensor.values()
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """z = x Wᵀ + b, with ∂C/∂x = δ W, ∂C/∂W = δᵀ x, ∂C/∂b = Σ_m δ (documents 1, 2 and 3).

    Under autocast it runs in the low-precision dtype, as `torch.nn.functional.linear` does.

    Args:
        input: x of shape (..., n_in); a jagged nested tensor too.
        weight: W of shape (n_out, n_in); or (n_in,), one unit whose n_out = 1 is dropped from z.
        bias: b of shape (n_out,), or None; () with a weight of shape (n_in,).

    Returns:
        z of shape (..., n_out); (...) with a weight of shape (n_in,).

    Raises:
        TypeError: an argument is not a tensor, or not of a floating dtype.
        RuntimeError: shapes, dtypes or devices do not fit; the message names what was seen and
            what was expected.

        >>> linear(torch.ones(5, 3), torch.ones(2, 3), torch.zeros(2)).shape
        torch.Size([5, 2])
    """
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        return not_tensors(linear, input=input, weight=weight, bias=bias)
    if F.linear in getattr(type(weight), "handled_functions", ()):
        return F.linear(input, weight, bias)  # torch's ExpandedWeight brings its own rule for it
    dtype = autocast_dtype(input)
    if dtype is not None:  # cast as autocast casts, then run with autocast off
        with torch.autocast(input.device.type, enabled=False):
            lower = None if bias is None else _lower(bias, dtype)
            return linear(_lower(input, dtype), _lower(weight, dtype), lower)
    _check(input, weight, bias)
    if weight.dim() == 1:
        bias = None if bias is None else bias.unsqueeze(0)
        return apply(LinearFunction, input, weight.unsqueeze(0), bias).squeeze(-1)
    return apply(LinearFunction, input, weight, bias)


def _lower(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As autocast casts: float64 and what is not floating stay as they are."""
    lowers = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if lowers else tensor


def _check(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    shape, device, dtype = weight.shape, input.device, input.dtype
    if len(shape) not in (1, 2):
        raise _misfit(input, weight, "the weight must have the shape (n_out, n_in), or (n_in,)")
    n_in = shape[-1]
    if input.dim() == 0:
        expected = f"the input must have at least one dimension, (..., n_in = {n_in})"
        raise _misfit(input, weight, expected)
    if input.shape[-1] != n_in:
        expected = f"the input's last dimension must equal the weight's n_in = {n_in}"
        raise _misfit(input, weight, expected)
    if bias is not None and bias.shape != shape[:-1]:
        raise RuntimeError(
            f"linear: weight {tuple(shape)} and bias {tuple(bias.shape)}: "
            f"the bias must have the weight's shape without n_in, {tuple(shape[:-1])}"
        )
    if weight.device != device or (bias is not None and bias.device != device):
        raise on_several_devices("linear", input=input, weight=weight, bias=bias)
    if not dtype.is_floating_point:
        raise not_floating("linear", input)
    if weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        others = "" if bias is None else f", bias {dtype_name(bias.dtype)}"
        raise RuntimeError(
            f"linear: input {dtype_name(dtype)}, weight {dtype_name(weight.dtype)}{others}: "
            f"all must have one dtype; convert with .to(dtype), or compute under torch.autocast "
            f"(which leaves float64 as it is)"
        )


def _misfit(input: Tensor, weight: Tensor, expected: str) -> RuntimeError:
    seen = f"input {tuple(input.shape)} and weight {tuple(weight.shape)}"
    return RuntimeError(f"linear: {seen}: {expected}")


class Linear(nn.Linear):
    """z = x Wᵀ + b, with ∂C/∂x = δ W, ∂C/∂W = δᵀ x, ∂C/∂b = Σ_m δ, δ = ∂C/∂z.

    `torch.nn.Linear` with this hand-derived backward pass: the same arguments, parameters,
    initialisation and state_dict. Shapes: x (..., n_in), W (n_out, n_in), b (n_out,), z and δ
    (..., n_out). Errors as of `manual_bp.functional.linear`. Documents 1, 2 and 3.

        >>> layer = Linear(784, 30)
        >>> layer(torch.rand(64, 784)).shape
        torch.Size([64, 30])
    """

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
