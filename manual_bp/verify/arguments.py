"""The arguments of one call: their kind, why they cannot be kept, and copies of them.

A copy draws no random number, and autograd does not see it. What was one tensor stays one: a module
among the arguments holds the copies of the parameters that are passed beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from manual_bp.verify import modules, randomness, strides

DEPTH = 4  # of lists in lists
NESTED = 256  # items of one list or dict


def kind(value: Any) -> Any:
    """What two calls must share to be one recording; the values of tensors do not count."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.requires_grad, value.layout)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return (type(value), tuple(kind(v) for v in value[:8]))
    return type(value)


def odd(args: tuple[Any, ...]) -> str:
    """Why tensors like these cannot be kept, or ""."""
    for t in _tensors(args):
        if type(t) not in (Tensor, nn.Parameter, nn.Buffer):
            return f"it is given a {type(t).__name__}, a tensor of another class"
        if t.device.type == "meta":
            return "it is given a tensor without values (meta)"
        if torch._C._functorch.is_functorch_wrapped_tensor(t):
            return "it runs inside a transform of torch.func"
    return ""


def size(args: tuple[Any, ...]) -> int:
    """The bytes of their elements."""
    return sum(t.numel() * t.element_size() for t in _tensors(args))


def copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as they are now."""
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
        copies = {id(t): _copy(t) for t in _tensors(args)}
        made: dict[int, nn.Module] = {}
        return tuple(_copied(a, copies, made, DEPTH) for a in args)


def _leaves(value: Any, depth: int = DEPTH + 1) -> Iterator[Any]:
    if isinstance(value, list | tuple | dict) and depth and len(value) <= NESTED:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item, depth - 1)
    else:
        yield value


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    return (leaf for a in args for leaf in _leaves(a, DEPTH) if isinstance(leaf, Tensor))


def _copied(value: Any, copies: dict[int, Tensor], made: dict[int, nn.Module], depth: int) -> Any:
    if isinstance(value, Tensor):
        return copies.get(id(value), value)
    if randomness.is_generator(value):
        return randomness.copied(value)
    if modules.holds(value, copies):
        return modules.with_tensors(value, copies, made)
    if isinstance(value, list | tuple | dict) and depth and len(value) <= NESTED:
        if isinstance(value, dict):
            return {k: _copied(v, copies, made, depth - 1) for k, v in value.items()}
        items = [_copied(v, copies, made, depth - 1) for v in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    return value


def _copy(t: Tensor) -> Tensor:
    """The values and strides, on the same device."""
    t_ = t.detach()
    if t_.layout == torch.strided and not t_.is_conj() and not t_.is_neg():
        # a dimension of stride 0 holds one value
        once = t_[tuple(slice(0, 1) if s == 0 else slice(None) for s in t_.stride())]
        extent = sum((n - 1) * s for n, s in zip(once.shape, once.stride(), strict=True)) + 1
        near = extent <= 2 * once.numel()
        copy = (strides.copy(once) if near else once.clone()).expand(t.shape)
    else:
        copy = t_.clone()
    return copy.requires_grad_(t.requires_grad and not t.is_inference())
