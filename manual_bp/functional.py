"""linear, sigmoid and mse_loss in `torch.nn.functional`'s argument order, with the hand-derived backward passes.

Each checks its arguments, follows autocast's own casting rules, and runs the Function with autocast off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.ops.function import HandDerivedFunction, apply
from manual_bp.ops.linear import LinearFunction
from manual_bp.ops.mse import REDUCTIONS, MSELossFunction
from manual_bp.ops.sigmoid import SigmoidFunction

__all__ = ["linear", "mse_loss", "sigmoid"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """z = x Wᵀ + b, with ∂C/∂x = δ W, ∂C/∂W = δᵀ x, ∂C/∂b = Σ_m δ (documents 1, 2 and 3).

    Under autocast it runs in the low-precision dtype, as `torch.nn.functional.linear` does.

    Args:
        input: x of shape (..., n_in).
        weight: W of shape (n_out, n_in); or (n_in,), one unit whose n_out = 1 is dropped from z.
        bias: b of shape (n_out,), or None; () with a weight of shape (n_in,).

    Returns:
        z of shape (..., n_out); (...) with a weight of shape (n_in,).

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: shapes, dtypes or devices do not fit; the message names what was seen and what was expected.
    """
    _check_linear(input, weight, bias)
    if weight.dim() == 1:
        return linear(input, weight.unsqueeze(0), None if bias is None else bias.unsqueeze(0)).squeeze(-1)
    if _autocast_enabled(input):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = _lower(input, dtype), _lower(weight, dtype)
        bias = None if bias is None else _lower(bias, dtype)
        _check_linear_dtypes(input, weight, bias)
        return _without_autocast(LinearFunction, input, weight, bias)
    _check_linear_dtypes(input, weight, bias)
    return apply(LinearFunction, input, weight, bias)  # type: ignore[no-any-return]


def sigmoid(input: Tensor) -> Tensor:
    """a = σ(z) = 1 / (1 + e^(−z)), with ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a) (documents 1, 2 and 3).

    Under autocast it runs in the dtype of its input, as `torch.sigmoid` does.

    Args:
        input: z of any shape, of a floating dtype.

    Returns:
        a of the shape of z.

    Raises:
        TypeError: the input is not a tensor of a floating dtype.
    """
    _check_floating("sigmoid", "input", input)
    return apply(SigmoidFunction, input)  # type: ignore[no-any-return]


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """C = s Σ (a − y)², with ∂C/∂a = 2 s (a − y) and ∂C/∂y = −2 s (a − y) (documents 1, 2 and 3).

    `reduction` chooses s; m is the number of examples and n_out the last dimension (a 1-D input is one example):
    "half_per_example" 1/(2m) (documents 1 and 2), "half_per_element" 1/(2 m n_out) (document 3), "mean" 1/(m n_out)
    and "sum" 1 (both as torch), "none" the elementwise (a − y)², as torch.

    Two dtypes are promoted to their common one, as `torch.nn.functional.mse_loss` does; under autocast both become
    float32.

    Args:
        input: a of shape (..., n_out), floating.
        target: y of exactly the shape of a: nothing is broadcast.
        reduction: one of the five names above.

    Returns:
        C, a scalar; for "none" of the shape of a.

    Raises:
        TypeError: an argument is not a tensor, or neither is floating.
        RuntimeError: shapes or devices differ.
        ValueError: an unknown reduction.
    """
    _check_mse_loss(input, target, reduction)
    if _autocast_enabled(input):
        return _without_autocast(MSELossFunction, _to_float32(input), _to_float32(target), reduction)
    if input.dtype != target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        input, target = input.to(dtype), target.to(dtype)
    return apply(MSELossFunction, input, target, reduction)  # type: ignore[no-any-return]


def _autocast_enabled(input: Tensor) -> bool:
    device_type = input.device.type
    # is_autocast_enabled raises for "meta", which has no autocast. torch.compile of torch 2.11 cannot trace the
    # function that would say so for any device.
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def _without_autocast(function: type[HandDerivedFunction], *args: Any) -> Tensor:
    """Run on arguments already cast by autocast's rule, with autocast off, so that they are not cast a second time."""
    with torch.autocast(args[0].device.type, enabled=False):
        return apply(function, *args)  # type: ignore[no-any-return]


def _lower(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # autocast leaves float64 and integers alone.
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check_tensor("linear", "input", input)
    _check_tensor("linear", "weight", weight)
    if bias is not None:
        _check_tensor("linear", "bias", bias)
    if weight.dim() not in (1, 2):
        raise _shapes_do_not_fit(input, weight, "the weight must have the shape (n_out, n_in), or (n_in,)")
    n_in = weight.shape[-1]
    if input.dim() == 0:
        raise _shapes_do_not_fit(input, weight, f"the input must have at least one dimension, (..., n_in = {n_in})")
    if input.shape[-1] != n_in:
        raise _shapes_do_not_fit(input, weight, f"the input's last dimension must equal the weight's n_in = {n_in}")
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise RuntimeError(
            f"linear: weight {_shape(weight)} and bias {_shape(bias)}: "
            f"the bias must have the weight's shape without n_in, {tuple(weight.shape[:-1])}"
        )
    device = input.device
    if weight.device != device or (bias is not None and bias.device != device):
        raise _on_several_devices("linear", input=input, weight=weight, bias=bias)


def _shapes_do_not_fit(input: Tensor, weight: Tensor, expected: str) -> RuntimeError:
    # Built only when it is raised: torch.compile cannot print a dynamic shape.
    return RuntimeError(f"linear: input {_shape(input)} and weight {_shape(weight)}: {expected}")


def _check_linear_dtypes(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check_floating("linear", "input", input)
    if weight.dtype != input.dtype or (bias is not None and bias.dtype != input.dtype):
        biased = "" if bias is None else f", bias {_dtype(bias)}"
        raise RuntimeError(
            f"linear: input {_dtype(input)}, weight {_dtype(weight)}{biased}: all must have one dtype; "
            f"convert with .to(dtype), or compute under torch.autocast (which leaves float64 as it is)"
        )


def _check_mse_loss(input: Tensor, target: Tensor, reduction: str) -> None:
    _check_tensor("mse_loss", "input", input)
    _check_tensor("mse_loss", "target", target)
    if input.shape != target.shape:
        raise RuntimeError(
            f"mse_loss: input {_shape(input)} and target {_shape(target)}: the shapes must be equal, "
            f"nothing is broadcast; reshape or expand the target"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"mse_loss: reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")
    if not target.is_floating_point():
        _check_floating("mse_loss", "input", input)
    if input.device != target.device:
        raise _on_several_devices("mse_loss", input=input, target=target)


def _check_tensor(operation: str, name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{operation}: {name} must be a tensor, not {type(tensor).__name__}")


def _check_floating(operation: str, name: str, tensor: Tensor) -> None:
    _check_tensor(operation, name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(f"{operation}: {name} has dtype {_dtype(tensor)}: a floating dtype is needed")


def _on_several_devices(operation: str, **tensors: Tensor | None) -> RuntimeError:
    seen = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items() if tensor is not None)
    return RuntimeError(f"{operation}: {seen}: all must be on one device; move them with .to(device)")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
