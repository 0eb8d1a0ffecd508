"""linear, sigmoid, mse_loss in `torch.nn.functional`'s argument order and linear_sigmoid, each with
its backward pass.

Each checks its arguments, follows autocast's own casting rules, and runs the Function with autocast
off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function

from manual_bp.ops.function import HandDerivedFunction, variant
from manual_bp.ops.linear import LinearFunction
from manual_bp.ops.linear_sigmoid import LinearSigmoidFunction
from manual_bp.ops.mse import REDUCTIONS, MSELossFunction
from manual_bp.ops.sigmoid import SigmoidFunction

__all__ = ["linear", "linear_sigmoid", "mse_loss", "sigmoid"]


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
        RuntimeError: shapes, dtypes or devices do not fit; the message names what was seen and what
            was expected.
    """
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        return _not_tensors(linear, input=input, weight=weight, bias=bias)
    return linear_by(LinearFunction, input, weight, bias)


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
    if not isinstance(input, Tensor):
        return _not_tensors(sigmoid, input=input)
    if not input.dtype.is_floating_point:
        raise _not_floating("sigmoid", "input", input.dtype)
    return variant(SigmoidFunction)(input)  # type: ignore[no-any-return]


def linear_sigmoid(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """a = σ(x Wᵀ + b), with δ = ∂C/∂a ⊙ a ⊙ (1 − a), ∂C/∂x = δ W, ∂C/∂W = δᵀ x, ∂C/∂b = Σ_m δ
    (documents 1, 2 and 3).

    The values and gradients of `sigmoid(linear(input, weight, bias))`, bit for bit, from one
    Function: one node of the graph in place of two, and z never in memory beside a. Under autocast
    it runs in the low-precision dtype.

    Args:
        input: x of shape (..., n_in).
        weight: W of shape (n_out, n_in); or (n_in,), one unit whose n_out = 1 is dropped from a.
        bias: b of shape (n_out,), or None; () with a weight of shape (n_in,).

    Returns:
        a of shape (..., n_out); (...) with a weight of shape (n_in,).

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: shapes, dtypes or devices do not fit; the message names what was seen and what
            was expected.
    """
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        return _not_tensors(linear_sigmoid, input=input, weight=weight, bias=bias)
    return linear_by(LinearSigmoidFunction, input, weight, bias)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """C = s Σ (a − y)², with ∂C/∂a = 2 s (a − y) and ∂C/∂y = −2 s (a − y) (documents 1, 2 and 3).

    `reduction` chooses s; m is the number of examples and n_out the last dimension (a 1-D input is
    one example): "half_per_example" 1/(2m) (documents 1 and 2), "half_per_element" 1/(2 m n_out)
    (document 3), "mean" 1/(m n_out) and "sum" 1 (both as torch), "none" the elementwise (a − y)²,
    as torch.

    Two dtypes are promoted to their common one, as `torch.nn.functional.mse_loss` does; under
    autocast both become float32.

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
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        return _not_tensors(mse_loss, input=input, target=target, reduction=reduction)
    dtype = input.dtype
    unusual = (
        input.shape != target.shape
        or reduction not in REDUCTIONS
        or dtype is not target.dtype
        or not dtype.is_floating_point
        or input.device != target.device
    )
    if unusual:
        _check_mse_loss(input, target, reduction)
    if _is_any_autocast_enabled() and _autocast_enabled(input):
        return _without_autocast(
            MSELossFunction, _to_float32(input), _to_float32(target), reduction
        )
    if unusual:
        dtype = torch.promote_types(dtype, target.dtype)
        input, target = input.to(dtype), target.to(dtype)
    return variant(MSELossFunction)(input, target, reduction)  # type: ignore[no-any-return]


def linear_by(
    function: type[HandDerivedFunction], input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """x Wᵀ + b, or σ of it, by `function`: `linear` and `linear_sigmoid` once their arguments are
    known to be tensors.

    Args:
        function: LinearFunction or LinearSigmoidFunction.
        input: x of shape (..., n_in).
        weight: W of shape (n_out, n_in), or (n_in,).
        bias: b of shape (n_out,), or () with a weight of shape (n_in,), or None.

    Returns:
        (..., n_out); (...) with a weight of shape (n_in,).

    Raises:
        TypeError: a dtype is not floating.
        RuntimeError: shapes, dtypes or devices do not fit; the message names what was seen and what
            was expected.
    """
    autocast = _is_any_autocast_enabled() and _autocast_enabled(input)
    if autocast:
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight, bias = _lower(input, dtype), _lower(weight, dtype), _lower(bias, dtype)
    # What eager torch itself refuses is checked after it has, to say it in clearer words: every
    # question asked of every call takes a small layer as long as a product. These are about what it
    # would let pass, and everything is asked where tensors are traced, faked or of a class of their
    # own.
    shape, dtype = weight.shape, input.dtype
    unusual = (
        type(input) is not Tensor
        or len(shape) != 2
        or weight.dtype is not dtype
        or (
            bias is not None
            and (bias.dim() != 1 or bias.numel() != shape[0] or bias.dtype is not dtype)
        )
        or not dtype.is_floating_point
        or input.is_meta
        or weight.is_meta
        or is_dynamo_compiling()
    )
    if unusual:
        _check_linear(input, weight, bias)
        if len(shape) == 1:
            bias = None if bias is None else bias.unsqueeze(0)
            return linear_by(function, input, weight.unsqueeze(0), bias).squeeze(-1)
    try:
        if autocast:
            return _without_autocast(function, input, weight, bias)
        return variant(function)(input, weight, bias)  # type: ignore[no-any-return]
    except RuntimeError:
        try:
            _check_linear(input, weight, bias)
        except (RuntimeError, TypeError) as clearer:
            raise clearer from None
        raise


def _autocast_enabled(input: Tensor) -> bool:
    """Whether it is for the device of `input`. Asked only where it is for any: that costs a small
    layer less.
    """
    device_type = input.device.type
    # is_autocast_enabled raises for "meta", which has no autocast. torch.compile of torch 2.11
    # cannot trace the function that would say so for any device.
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def _without_autocast(function: type[HandDerivedFunction], *args: Any) -> Tensor:
    """Run on arguments already cast by autocast's rule, with autocast off, so that they are not
    cast a second time.
    """
    with torch.autocast(args[0].device.type, enabled=False):
        return variant(function)(*args)  # type: ignore[no-any-return]


def _lower(argument: Any, dtype: torch.dtype) -> Any:
    # autocast leaves float64, integers and a bias of None alone.
    lowers = (
        argument is not None and argument.is_floating_point() and argument.dtype != torch.float64
    )
    return argument.to(dtype) if lowers else argument


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    shape, rows = weight.shape, input.shape
    if len(shape) not in (1, 2):
        raise _shapes_do_not_fit(
            input, weight, "the weight must have the shape (n_out, n_in), or (n_in,)"
        )
    n_in = shape[-1]
    if not rows:
        raise _shapes_do_not_fit(
            input, weight, f"the input must have at least one dimension, (..., n_in = {n_in})"
        )
    if rows[-1] != n_in:
        raise _shapes_do_not_fit(
            input, weight, f"the input's last dimension must equal the weight's n_in = {n_in}"
        )
    if bias is not None and (*bias.shape, n_in) != shape:
        raise RuntimeError(
            f"linear: weight {_shape(weight)} and bias {_shape(bias)}: "
            f"the bias must have the weight's shape without n_in, {tuple(shape[:-1])}"
        )
    device, dtype = input.device, input.dtype
    if weight.device != device or (bias is not None and bias.device != device):
        raise _on_several_devices("linear", input=input, weight=weight, bias=bias)
    if not dtype.is_floating_point:
        raise _not_floating("linear", "input", dtype)
    if weight.dtype is not dtype or (bias is not None and bias.dtype is not dtype):
        biased = "" if bias is None else f", bias {_dtype(bias.dtype)}"
        raise RuntimeError(
            f"linear: input {_dtype(dtype)}, weight {_dtype(weight.dtype)}{biased}: all must have "
            f"one dtype; "
            f"convert with .to(dtype), or compute under torch.autocast (which leaves float64 as it "
            f"is)"
        )


def _shapes_do_not_fit(input: Tensor, weight: Tensor, expected: str) -> RuntimeError:
    # Built only when it is raised: torch.compile cannot print a dynamic shape.
    return RuntimeError(f"linear: input {_shape(input)} and weight {_shape(weight)}: {expected}")


def _check_mse_loss(input: Tensor, target: Tensor, reduction: str) -> None:
    if input.shape != target.shape:
        raise RuntimeError(
            f"mse_loss: input {_shape(input)} and target {_shape(target)}: the shapes must be "
            f"equal, "
            f"nothing is broadcast; reshape or expand the target"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"mse_loss: reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")
    if not (input.dtype.is_floating_point or target.dtype.is_floating_point):
        raise _not_floating("mse_loss", "input", input.dtype)
    if input.device != target.device:
        raise _on_several_devices("mse_loss", input=input, target=target)


def _not_tensors(operation: Callable[..., Tensor], **arguments: Any) -> Tensor:
    """Let an argument that stands for a tensor take the call, as torch's own functions do: a Proxy
    of torch.fx.

    Raises:
        TypeError: there is none.
    """
    values = tuple(arguments.values())
    if has_torch_function(values):
        return handle_torch_function(operation, values, **arguments)
    name, seen = next(
        (name, seen) for name, seen in arguments.items() if not isinstance(seen, Tensor)
    )
    raise TypeError(f"{operation.__name__}: {name} must be a tensor, not {type(seen).__name__}")


def _not_floating(operation: str, name: str, dtype: torch.dtype) -> TypeError:
    return TypeError(f"{operation}: {name} has dtype {_dtype(dtype)}: a floating dtype is needed")


def _on_several_devices(operation: str, **tensors: Tensor | None) -> RuntimeError:
    seen = ", ".join(
        f"{name} on {tensor.device}" for name, tensor in tensors.items() if tensor is not None
    )
    return RuntimeError(
        f"{operation}: {seen}: all must be on one device; move them with .to(device)"
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
